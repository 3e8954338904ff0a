"""One HTML page for the results of a sweep: read, group, draw, render."""
