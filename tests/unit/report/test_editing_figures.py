"""Figures of edits, from measures alone: every part has a line, and nothing that was not measured is drawn."""

import re

import pytest

from memlm.report.editing import FIGURES, abstention, stream, trial

TRIAL = {
    "sparse memory": [
        {"edits": n, "efficacy": 1.0, "paraphrase": 0.9, "neighbourhood": None if n == 1 else 0.5, "loss_change": 0.01}
        for n in (1, 10, 100)
    ],
    "in context": [{"edits": 1, "efficacy": 0.2, "paraphrase": 0.1, "neighbourhood": 0.4, "loss_change": None}],
}
STREAM = {
    name: [{"set": n, "learned": learned, "forgotten": 0.1 * n} for n in (1, 2)]
    for name, learned in (("LoRA", 0.5), ("retrieval", 0.25))
}
RISK = {"auroc": [{"what": "x", "router": 0.5}], "risk": [{"coverage": c, "router": c, "index": 0} for c in (0.5, 1)]}


def points(svg):
    """Markers of lines, which have a colour; ticks have that of the ink."""
    return len(re.findall(r'<use [^>]*style="fill: #(?:0072b2|d55e00)', svg))


@pytest.mark.parametrize(
    ("name", "parts", "labels"),
    [
        ("edit-trial", TRIAL, list(TRIAL)),
        ("edit-stream", STREAM, list(STREAM)),
        ("edit-abstention", RISK, ["router", "index"]),
    ],
)
def test_every_part_has_a_line_and_the_same_measures_the_same_file(name, parts, labels):
    svg = FIGURES[name](parts)
    assert all(f">{label}</text>" in svg for label in labels) and svg == FIGURES[name](parts)


@pytest.mark.parametrize(
    ("draw", "parts", "more", "n"),
    [
        # two more numbers of edits, in four panels
        (trial, {"a": TRIAL["sparse memory"][1:2]}, {"a": TRIAL["sparse memory"][1:]}, 4),
        (trial, {"a": TRIAL["in context"]}, {"a": TRIAL["sparse memory"][1:2]}, 1),
        (stream, {"a": STREAM["LoRA"][:1]}, {"a": STREAM["LoRA"]}, 3),
        (abstention, {"risk": RISK["risk"][:1]}, RISK, 2),
    ],
)
def test_a_point_is_drawn_for_what_was_measured_alone(draw, parts, more, n):
    assert points(draw(more)) - points(draw(parts)) == n
