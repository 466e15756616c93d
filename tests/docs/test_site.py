"""The site is built without a warning, has every page, and leads nowhere that is not there."""

import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page links to and loads, and the anchors that it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.anchors = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag in {"script", "img", "link"}:
            self.loads += [attrs[name] for name in ("src", "href") if attrs.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"every page in docs/ stands in the nav of mkdocs.yml, and links hold\n{done.stderr}"
    return {path: Page(path) for path in folder.rglob("*.html") if path.name != "404.html"}


def told(site, name):
    return next(page for path, page in site.items() if path.name == name)


def test_every_document_is_a_page(site):
    names = {path.name for path in site}
    assert {f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")} <= names
    assert {"CONTRIBUTING.html", "CHANGELOG.html"} <= names


def test_every_link_leads_somewhere(site):
    links = [(path, urlsplit(link)) for path, page in site.items() for link in page.links + page.loads]
    local = [(path, link) for path, link in links if not link.scheme]
    assert len(local) > 1000
    for path, link in local:
        target = (path.parent / unquote(link.path)).resolve() if link.path else path
        assert target.exists(), f"{path.name} links to {link.geturl()}"
        if link.fragment and target in site and target != path:
            assert unquote(link.fragment) in site[target].anchors, f"{path.name} links to {link.geturl()}"


def test_nothing_is_loaded_from_elsewhere(site):
    assert [load for page in site.values() for load in page.loads if urlsplit(load).netloc] == []


def test_what_lies_outside_of_docs_comes_along(site):
    assert "configs/memories.yaml" in told(site, "memories.html").links


def test_the_reference_is_made_from_docstrings(site):
    anchors = told(site, "parts.html").anchors
    assert {"memlm.memory.base.Memory.forward", "memlm.fusion.base.Fusion"} <= anchors
