"""Lets the site hold what lies outside of docs/: pages of the nav, and the files that pages link to.

A page links to them as the repository lies (`../configs/demo.yaml`); the site puts them beside the pages.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "experiments/*/findings.md")
LINK = re.compile(r"(\]\()(?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie elsewhere, and the files that any page links to."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            _add(files, config, str(path.relative_to(ROOT)))
    for page in list(files.documentation_pages()):
        for link in LINK.finditer(page.content_string):
            target = _in_repository(page.src_uri, files, link[2])
            if not target.startswith("docs/") and (ROOT / target).is_file():
                _add(files, config, target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at where the site has their files."""
    folder = posixpath.dirname(page.file.src_uri)

    def point(link: re.Match[str]) -> str:
        target = _in_repository(page.file.src_uri, files, link[2]).removeprefix("docs/")
        return link[1] + posixpath.relpath(target, folder or ".")

    return LINK.sub(point, markdown)


def _add(files: Files, config: MkDocsConfig, path: str) -> None:
    if files.get_file_from_path(path) is None:
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def _in_repository(page: str, files: Files, link: str) -> str:
    """Returns the path in the repository that a page's link leads to."""
    file = files.get_file_from_path(page)
    is_inside = file is not None and file.generated_by is None
    return posixpath.normpath(posixpath.join("docs" if is_inside else "", posixpath.dirname(page), link))
