"""README and its sisters as pages of the site, and links between all pages as they are on the site.

On GitHub a page links to files of the repository. On the site those among them that are pages lead to those pages; the
others lead to `repo_url` of mkdocs.yml, or are plain text while there is none.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"README.md": "overview.md", "examples/README.md": "examples.md", "benchmarks/README.md": "benchmarks.md"}
NOTEBOOK = ".ipynb"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(```.*?```)", re.S)


def on_files(files: Any, config: Any) -> Any:
    """Add the READMEs."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page; those of a notebook are rewritten when it is HTML."""
    if page.file.src_uri.endswith(NOTEBOOK):
        return markdown
    return with_links_of_the_site(markdown, page.file.src_uri, config.repo_url)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Let the links of a notebook lead to pages of the site, which MkDocs does for Markdown alone."""
    here = page.file.src_uri

    def link(found: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[1]))
        there = files.get_file_from_path(path)
        if there is None:
            logging.getLogger("mkdocs.hooks").warning(f"{here} links to {found[1]}, which is not a page")
            return found[0]
        return f'href="{there.url_relative_to(page.file)}{found[2] or ""}"'

    return re.sub(r'href="([^":#]+\.md)(#[^"]*)?"', link, html) if here.endswith(NOTEBOOK) else html


def with_links_of_the_site(markdown: str, page: str, repo_url: str | None = None) -> str:
    """Return the text of a page with its links as they are on the site; code stays as it is.

    >>> with_links_of_the_site("[start](../README.md#two-commands), [data](../setup.cfg)", "faq.md")
    '[start](overview.md#two-commands), data'
    """
    source = next((name for name, own in PAGES.items() if own == page), f"docs/{page}")

    def link(found: re.Match[str]) -> str:
        mark, text, address = found.groups()
        target, _, anchor = address.partition("#")
        if "://" in address or not target or address.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        on_site = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if on_site is None:
            return f"{mark}[{text}]({repo_url}/blob/main/{path})" if repo_url else text
        there = posixpath.relpath(on_site, posixpath.dirname(page) or ".")
        return f"{mark}[{text}]({there}{'#' + anchor if anchor else ''})"

    parts = CODE.split(markdown)
    return "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(parts))
