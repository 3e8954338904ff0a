"""Hooks of the documentation site (mkdocs.yml): pages from outside docs/, and links between pages.

The Markdown files are written to be read in the repository. README, CHANGELOG and others become
pages of the site, and links between files become links between pages. A link to another file, such
as a script, becomes the path of that file.
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
    "examples/ocr.md": "ocr.md",
    "examples/retrieval.md": "retrieval.md",
    "examples/voice_activity.md": "voice_activity.md",
    "examples/detection.md": "detection.md",
}
"""Pages from outside docs/: path in the repository -> path on the site."""

_LINK = re.compile(r"(!?)\[([^\]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links of the repository into links of the site."""
    sources = {uri: source for source, uri in PAGES.items()}
    uri = page.file.src_uri
    return linked(markdown, sources.get(uri, f"docs/{uri}"), uri)


def linked(markdown: str, source: str, uri: str) -> str:
    """Return the text of a file with the links of its page.

    Args:
        markdown: text of the file.
        source: path of the file in the repository.
        uri: path of the page on the site.
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
