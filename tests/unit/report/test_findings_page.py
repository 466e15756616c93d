"""What a person wrote is shown as it was meant, and can make the page neither load nor run anything."""

import re
from pathlib import Path

import pytest

from memlm.report.findings import render

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def test_markdown_is_shown_as_it_was_meant():
    text = "# One `two`\n\nA *soft* line\nand **more**.\n\n- first\n  goes on\n- second\n\n## Two\n"
    html = render(text)
    assert '<h3 id="one-two">One <code>two</code></h3>' in html
    assert "<p>A <em>soft</em> line\nand <strong>more</strong>.</p>" in html
    assert "<li>first\ngoes on</li>" in html
    assert '<h3 id="two">' in html, "no heading is above those of the page"


def test_a_table_scrolls_by_itself():
    html = render("| | 1 |\n|---|---|\n| rates | 0.1 |\n")
    assert re.search(r'<div class="scroll">\s*<table>.*<td>rates</td>.*</table>\s*</div>', html, flags=re.S)


@pytest.mark.parametrize(
    "url", ["../pays/findings.md#the-pair-released", "release/SHA256SUMS", "#two", "https://x.org/a?b", "HTTP://x.org"]
)
def test_links_lead_where_they_led(url):
    assert render(f"[there]({url})") == f'<p><a href="{url}">there</a></p>\n'


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java&#115;cript:alert(1)",
        "<java\tscript:alert(1)>",
        "data:text/html,<script>alert(1)</script>",
        "vbscript:x",
        "file:///etc/passwd",
        "//x.org/a",
        "/etc/passwd",
    ],
)
def test_other_links_stay_text(url):
    for text in (f"[there]({url})", f"![there]({url})", f"[there]\n\n[there]: {url}", f"<{url}>"):
        # A tab is no part of a scheme once it is written as %09: such a link leads to a file of that name.
        targets = [target for target in re.findall(r'href="([^"]*)"', render(text)) if "%09" not in target]
        assert targets == []


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "![x](https://x.org/a.png)",
        '[x](<a" onclick="alert(1)>)',
        "# <b>x</b>",
        "| <i>x</i> |\n|---|\n| <script>y</script> |",
        "```html\n<script>x</script>\n```",
    ],
)
def test_nothing_is_loaded_or_run(text):
    tags = re.findall(r"<(\w+)([^>]*)>", render(text))
    assert {tag for tag, _ in tags} <= {
        "p",
        "a",
        "h3",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "code",
    }
    assert not any(re.search(r'\bsrc=|"\s*on\w+=', attributes) for _, attributes in tags)


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/findings.md")), ids=lambda path: path.parent.name)
def test_the_findings_here_lead_to_files_that_are_there(path):
    html = render(path.read_text(encoding="utf-8"))
    assert not re.search(r"\]\(|^\|", re.sub(r"<code>.*?</code>", "", html), flags=re.M)
    for url in re.findall(r'href="([^"]*)"', html):
        assert url.startswith("https://") or (path.parent / url.partition("#")[0]).exists()
