import html
import re
import shutil
from html.parser import HTMLParser
from statistics import mean

import pytest
from fabricate import LOSSES, PROMPT, SEEDS, edit_record, fabricate, loss_of

from memlm.errors import RunError
from memlm.report.content import FINDINGS
from memlm.report.page import write_report
from tests.told import one_line

VOID = {"meta", "br", "link", "img", "input", "hr"}


class Balance(HTMLParser):
    """Checks that every element that opens also closes."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(folder):
    page, text = write_report(folder)
    return page.read_text(encoding="utf-8"), text.read_text(encoding="utf-8")


def test_both_files_show_the_numbers_of_the_records(folder):
    for text in written(folder):
        for variant in LOSSES:
            assert f"{mean(loss_of(variant, seed) for seed in SEEDS):.3f}" in text
        for number in ("1.446 M", "262.1 k", "2.511 M", "+0.300", "5.250 nats", "d41d8cd98f00b204", "82.0 %"):
            assert number in text


def test_every_verdict_is_explicit(tmp_path):
    claims = [("gated_mlp < cross_attention", 0.05), ("门控记忆 < dense", 0.08), ("gated_mlp < dense", 0)]
    hypotheses = [
        {"name": f"h{n}", "claim": c, "metric": "validation_loss", "margin": m} for n, (c, m) in enumerate(claims)
    ]
    for text in written(fabricate(tmp_path, hypotheses)):
        words = re.findall(r"Verdict: (\w+)", text)
        assert words == ["supported", "inconclusive", "refuted"]
        assert "95 % interval" in text


def test_text_of_a_model_cannot_become_markup(folder):
    page, text = written(folder)
    assert "<script" not in page
    assert "<b>bold</b>" not in page
    assert html.escape(PROMPT, quote=False).split("'")[0] in page
    assert "````\ndense 说：<b>bold</b> ```x```\n````" in text


def test_the_page_is_whole_and_loads_nothing(folder):
    page, _ = written(folder)
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert not re.search(r"https?://|<link|@import|url\((?!#)|\bsrc=", page)
    assert page.count("<svg") == 3
    assert ">门控记忆</text>" in page


def test_a_report_is_the_same_each_time(folder):
    assert written(folder) == written(folder)
    assert not list(folder.glob(".report*"))


def test_findings_are_made_once_shown_and_kept(folder):
    page, _ = written(folder)
    path = folder / "findings.md"
    assert path.read_text(encoding="utf-8") == FINDINGS
    assert "None written yet" in page
    mine = "### What was found\n\n<i>门控</i> wins.\n"
    path.write_text(mine, encoding="utf-8")
    page, text = written(folder)
    assert path.read_text(encoding="utf-8") == mine
    assert '<h3 id="what-was-found">What was found</h3>' in page
    assert "<p>&lt;i&gt;门控&lt;/i&gt; wins.</p>" in page
    assert mine.strip() in text


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_findings_that_are_not_utf_8_are_one_line(folder, encoding):
    (folder / "findings.md").write_text("Für dense", encoding=encoding)
    with pytest.raises(RunError) as told:
        write_report(folder)
    one_line(told.value, "findings.md: cannot be read: 'utf-8'")
    assert not (folder / "report.html").exists()


def test_what_is_missing_or_doubtful_is_visible(folder):
    shutil.rmtree(folder / "dense-s0")
    edit_record(folder / "dense-s1", status="failed", error="<out of memory>")
    edit_record(folder / "gated_mlp-s2", commit="fedcba")
    page, text = written(folder)
    for said in ("dense-s0 was not run", "1 of 3", "10 of 12 runs finished", "Not comparable: commit differs"):
        assert said in page
        assert said in text
    assert "dense-s1 failed at step 200: &lt;out of memory&gt;" in page


def test_an_experiment_with_nothing_finished_still_gives_a_report(folder):
    for run in folder.glob("*-s*"):
        shutil.rmtree(run)
    page, text = written(folder)
    assert "0 of 12 runs finished" in page
    assert "Verdict: inconclusive (no seed has both sides)" in text
    assert "<svg" not in page


def test_runs_without_samples_usage_and_metrics_give_a_report(tmp_path):
    folder = fabricate(tmp_path, [], seeds=(0,))
    for run in folder.glob("*-s*"):
        (run / "samples.json").unlink()
        (run / "metrics.jsonl").unlink()
        edit_record(run, results={"usage": {}, "quality": {}})
    page, _ = written(folder)
    assert "states no hypothesis" in page
    assert "± 0" not in page
    assert "Samples" not in page


def test_a_folder_that_is_no_experiment_is_refused(tmp_path):
    with pytest.raises(RunError, match="no experiment here"):
        write_report(tmp_path)


def test_answers_without_a_kind_are_no_question(folder):
    edit_record(
        folder / "dense-s0",
        results={"recall": {"exact_match": 0.5, "seen": {"exact_match": 0.25, "a": {"exact_match": 1}}}},
    )
    _, text = written(folder)
    assert "| Variant | Seen |\n" in text and "| dense | 25.0 % |" in text
