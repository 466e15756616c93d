"""Tables, targets, figures and the page, from records alone."""

import re
from pathlib import Path

import pytest

from memlm.bench import figures, page, tables, targets
from memlm.bench.page import BLOCKS, MARK, write_page
from memlm.bench.store import Group, Results
from memlm.errors import RunError
from memlm.report import markdown
from tests.unit.bench.conftest import fabricated

DOCS = Path(__file__).parents[3] / "docs"


def texts(table):
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}


def test_layers_are_told_as_multiples_of_the_compiled_dense_layer():
    table = tables.layers(fabricated().groups["layers/S"])
    assert texts(table) == {
        "dense FFN, eager": ["0.400", "1.33", "1.200", "1.20", "0.50", "1.0e-03"],
        "dense FFN, compiled": ["0.300", "1.00", "1.000", "1.00", "0.50", "1.0e-03"],
        "gated_mlp, compiled": ["0.600", "2.00", "0.900", "0.90", "0.50", "1.0e-03"],
        "cross_attention, compiled": ["wrong (error 0.7)", "–", "–", "–", "–", "–"],
        "PEER-pytorch, eager": ["not installed", "–", "–", "–", "–", "–"],
    }
    assert table.rows[0][1].note == "(0.360–0.600)"


def test_without_a_dense_row_there_are_no_multiples():
    group = fabricated().groups["layers/S"]
    del group.rows["dense FFN, eager"], group.rows["dense FFN, compiled"]
    assert texts(tables.layers(group))["gated_mlp, compiled"][:4] == ["0.600", "–", "0.900", "–"]


def test_stages_are_held_against_plain_torch_and_the_device():
    found = texts(tables.stages(fabricated().groups["stages/S"]))
    assert found["selection, forward"] == ["0.040", "1.600", "40 ×", "6.0", "5.0 %", "4.00", "12.5 %", "1.0e-03"]
    assert found["query projection"][1:3] == ["–", "–"]
    assert found["lookup, forward"][0] == "out of memory"
    assert found["lookup, backward"][0] == "failed (RuntimeError: no such kernel)"


def test_steps_are_told_as_a_share_of_the_dense_model():
    found = texts(tables.steps(fabricated().groups["steps/S"]))
    assert found["gated_mlp in every layer"] == ["800,000", "80.0 %", "6.00", "31.0", "20.0 %", "26 M"]


def test_decoding_is_told_as_a_share_of_the_same_on_the_device():
    found = texts(tables.decode(fabricated().groups["decode/decoded"]))
    assert found == {
        "device, graph, batch 16": ["8,000", "100.0 %", "2.000", "–", "–", "2.00", "0.0e+00"],
        "host, a quarter hot, graph, batch 16": ["6,000", "75.0 %", "2.000", "90.0 %", "3.00", "2.00", "0.0e+00"],
        "int8, graph, batch 16": ["wrong (error 0.3)", "–", "–", "–", "–", "–", "–"],
        "mapped, eager, batch 16": ["8,000", "–", "2.000", "50.0 %", "3.00", "2.00", "0.0e+00"],
    }
    notes = [row[5].note for row in tables.decode(fabricated().groups["decode/decoded"]).rows]
    assert notes == ["", "(≥ 0.060 ms)", "", ""]


def test_a_profile_tells_the_share_of_each_kernel():
    row = fabricated().groups["steps/S"].rows["gated_mlp in every layer"]
    assert texts(tables.profile(row)) == {"gemm": ["6.00", "75.0 %"], "others": ["2.00", "25.0 %"]}


def test_targets_are_met_missed_or_not_measured():
    found = {(row[0].text, row[1].text): [cell.text for cell in row[2:]] for row in targets.table(fabricated()).rows}
    assert found["layers S", "gated_mlp, compiled"] == ["≤ 1.2 × dense", "0.9 × dense", "yes"]
    assert found["layers S", "cross_attention, compiled"] == ["≤ 1.5 × dense", "–", "wrong"]
    assert found["layers M8k", "weighted_sum, compiled"][1:] == ["–", "not measured"]
    assert found["stages S", "selection, forward"] == ["≤ 0.035 ms", "0.04 ms", "no"]
    assert found["steps S", "dense"] == ["≥ 1,600,000 tokens/s", "1,000,000 tokens/s", "no"]
    assert found["steps S", "gated_mlp in every layer"] == ["≤ 8 GiB", "6 GiB", "yes"]


def test_a_target_without_a_dense_row_says_so():
    results = fabricated()
    rows = results.groups["layers/S"].rows
    del rows["dense FFN, eager"], rows["dense FFN, compiled"]
    found = {row[1].text: row[4].text for row in targets.table(results).rows}
    assert found["gated_mlp, compiled"] == "no dense row"


def test_every_target_names_a_row_that_is_measured_on_a_gpu():
    import torch

    from memlm.bench.run import plan
    from memlm.bench.setting import Setting
    from memlm.bench.shapes import PARTS, SHAPES

    jobs = plan([*SHAPES], PARTS, Setting(torch.device("cuda"), torch.bfloat16))
    measured = {(job.part, job.shape.name, job.name) for job in jobs}
    assert {(t.part, t.shape, t.row) for t in targets.TARGETS} <= measured


def test_figures_show_what_was_measured():
    growth, roofline = figures.growth(fabricated()), figures.roofline(fabricated())
    for expected in ("32 reads a token", "1,048,576 slots", "dense FFN"):
        assert expected in growth
    for expected in ("query projection", "selection, forward", "Operations a byte"):
        assert expected in roofline
    assert growth == figures.growth(fabricated()), "the same records give the same file"


@pytest.mark.parametrize("draw", [figures.growth, figures.roofline])
@pytest.mark.parametrize("row", [None, {"status": "out of memory"}])
def test_nothing_measured_gives_no_figure(draw, row):
    parts = ("stages", "growth") if row else ()
    groups = {part: Group(part, "S", "", "", {}, {"one": row}) for part in parts}
    assert draw(Results({"name": "a", "kind": "cuda"}, "abc", {}, groups)) is None


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "performance.md").write_text((DOCS / "performance.md").read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path


def test_the_page_has_every_table_and_figure_and_keeps_its_prose(docs):
    written = write_page(docs, [fabricated(), fabricated("A processor", "cpu")])
    text = (docs / "performance.md").read_text(encoding="utf-8")
    assert "| gated_mlp, compiled | 0.600 (0.540–0.900) | 2.00 |".replace("_", r"\_") in text
    assert "**A processor**, commit abc, torch 2.11.0" in text
    assert text.count("| Measured | Row | Target |") == 1, "targets are for GPUs"
    names = {path.relative_to(docs).as_posix() for path in written}
    for name in ("growth", "roofline"):
        for device in ("nvidia-h100-80gb-hbm3", "a-processor"):
            assert f"figures/{name}-{device}.svg" in names
            assert f"(figures/{name}-{device}.svg)" in text
            assert (docs / "figures" / f"{name}-{device}.svg").read_text().startswith("<?xml")
    outside = re.compile(r"(<!-- generated: \w+ -->).*?(<!-- end of generated -->)", flags=re.S)
    original = (DOCS / "performance.md").read_text(encoding="utf-8")
    assert outside.sub(r"\1\2", text) == outside.sub(r"\1\2", original)


def test_writing_the_page_twice_changes_nothing(docs):
    first = {path: path.read_bytes() for path in write_page(docs, [fabricated()])}
    assert {path: path.read_bytes() for path in write_page(docs, [fabricated()])} == first


@pytest.mark.parametrize("commit", ["abc", "def"])
def test_a_figure_stands_under_the_results_that_it_is_of(docs, commit):
    newer = Results(fabricated().device, commit, {})
    write_page(docs, [fabricated(), newer])
    text = (docs / "performance.md").read_text(encoding="utf-8")
    assert text.count("(figures/roofline-nvidia-h100-80gb-hbm3.svg)") == 1 and "commit def" not in text


def test_what_was_not_measured_is_said(docs):
    write_page(docs, [Results({"name": "a", "kind": "cpu"}, "abc", {})])
    assert (docs / "performance.md").read_text(encoding="utf-8").count("Not measured yet.") == len(BLOCKS)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_page_without_a_mark_is_left_alone(block, docs):
    path = docs / "performance.md"
    text = path.read_text(encoding="utf-8").replace(MARK.format(block), "")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=rf"performance\.md: needs <!-- generated: {block} --> and .* once; take both"):
        write_page(docs, [])
    assert path.read_text(encoding="utf-8") == text


def test_a_folder_without_the_page_is_told(tmp_path):
    with pytest.raises(RunError, match=r"performance\.md: not there; give --report in a copy of memlm's repository"):
        write_page(tmp_path, [fabricated()])


def test_the_tables_of_the_page_are_markdown():
    table = markdown.table(tables.growth(fabricated().groups["growth/grown"]))
    assert table.splitlines()[1] == "| :-- | --: | --: | --: |"
    assert page.PAGE == "performance.md"


def test_what_was_measured_at_several_commits_makes_one_table_of_targets(tmp_path):
    (tmp_path / "performance.md").write_text("\n".join(f"{MARK.format(block)}\n{page.END}" for block in BLOCKS))
    first, second = fabricated(), fabricated(commit="def")
    first.groups.pop("layers/S")
    for key in [key for key in second.groups if key != "layers/S"]:
        del second.groups[key]
    write_page(tmp_path, [first, second])
    text = (tmp_path / "performance.md").read_text()
    told = text[: text.index(page.END)]
    assert told.count("commits abc, def") == 1 and told.count("| layers S |") == 2
    assert "0.9 × dense | yes" in told and "0.04 ms | no" in told
    assert "commit def" in text[text.index(MARK.format("layers")) : text.index(MARK.format("steps"))]
