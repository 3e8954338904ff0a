"""Model cards: what a file was made from, how, and what it is worth, as Markdown."""
