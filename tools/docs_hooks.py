"""What the documentation site (mkdocs.yml) adds to docs/: pages and links of the whole repository.

Files are written to be read in the repository. README, CHANGELOG and others become pages of the
site, and links between all of them are turned into links of the site; what is no page, such as a
script, is named by its place in the repository.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "models/README.md": "models.md",
}
"""Pages that lie outside docs/: their place in the repository, and on the site."""

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links of the repository into links of the site."""
    sources = {uri: source for source, uri in PAGES.items()}
    uri = page.file.src_uri
    return linked(markdown, sources.get(uri, f"docs/{uri}"), uri)


def linked(markdown: str, source: str, uri: str) -> str:
    """Return a file's text with the links of its page.

    Args:
        markdown: the text.
        source: the file's place in the repository.
        uri: the page's place on the site.
    """

    def replaced(match: re.Match[str]) -> str:
        image, text, link, anchor = match[1], match[2], match[3], match[4] or ""
        target = os.path.normpath(PurePosixPath(source).parent / link)
        if not (ROOT / target).exists():
            return match[0]
        place = PAGES.get(target, target.removeprefix("docs/"))
        if place != target:
            return f"{image}[{text}]({os.path.relpath(place, PurePosixPath(uri).parent)}{anchor})"
        return f"`{target}`" if text.strip("`") == target else f"{text} (`{target}`)"

    return _LINK.sub(replaced, markdown)
