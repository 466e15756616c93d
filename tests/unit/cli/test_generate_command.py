"""`memlm generate`, as a person runs it."""

import json
import re

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import MemlmError, RunError
from memlm.experiment.reading import read_finished
from memlm.experiment.trained import open_model
from tests.unit.export.conftest import runs as runs  # a fixture is found by its name


@pytest.fixture
def generate(runs):
    def call(*arguments, name="gated_mlp", **options):
        line = ["generate", str(runs / f"{name}-s0"), "--max-new-tokens", "6", *arguments]
        result = CliRunner().invoke(app, line, **options)
        if isinstance(result.exception, MemlmError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return call


def test_it_goes_on_with_a_text(generate, runs):
    model, tokenizer = open_model(runs / "gated_mlp-s0", "cpu")
    ids = tokenizer("ka lo", return_tensors="pt").input_ids
    greedy = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    expected = tokenizer.decode(greedy, skip_special_tokens=True)
    assert expected and generate("ka lo", "--temperature", "0") == f"{expected}\n"


def test_a_seed_repeats_what_was_drawn(generate):
    drawn = [generate("ka lo", "--seed", seed, "--temperature", "2") for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_prompt_may_come_from_a_pipe(generate):
    greedy = ("--temperature", "0")
    assert generate(*greedy, input="ka lo\n") == generate("ka lo", *greedy)


def test_a_long_prompt_loses_its_beginning(generate):
    greedy = ("--temperature", "0")
    long = "ka lo mi ten ur sha bel dor ix pa " * 20
    assert generate(long, *greedy) == generate("shabel " + long, *greedy)


def test_an_empty_prompt_begins_a_text(generate):
    assert generate("", "--temperature", "1", "--seed", "3").strip()


@pytest.mark.parametrize(("arguments", "piped"), [(["a\udcff"], None), ([], b"a\xff\n")])
def test_text_that_is_not_utf_8_is_told(generate, arguments, piped):
    with pytest.raises(RunError, match="the text is not UTF-8; convert it"):
        generate(*arguments, input=piped)


def test_a_seed_that_torch_does_not_take_is_told(runs):
    line = ["generate", str(runs / "gated_mlp-s0"), "x", "--seed", "99999999999999999999"]
    assert CliRunner().invoke(app, line, catch_exceptions=False).exit_code == 2


def test_what_is_no_finished_run_is_told(generate, runs, tmp_path):
    with pytest.raises(MemlmError, match=r"record\.json"):
        CliRunner().invoke(app, ["generate", str(tmp_path), "x"], catch_exceptions=False)


def test_values_may_be_elsewhere(generate):
    greedy = ("ka lo", "--temperature", "0")
    assert generate(*greedy, "--values", "host") == generate(*greedy, "--values", "mapped") == generate(*greedy)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_held_out_loss_by_where_the_values_are(runs, as_json):
    line = ["eval", str(runs / "gated_mlp-s0"), "--values", "host", "--values", "int8", *(["--json"] * as_json)]
    told = CliRunner().invoke(app, line, catch_exceptions=False).stdout
    recorded = read_finished(runs / "gated_mlp-s0")
    if not as_json:
        assert told.splitlines()[0] == f"device: held-out loss {recorded.result('validation_loss'):.5f} nats, +0.00000"
        assert re.fullmatch(r"host: .* nats, \+0\.00000, hit rate 0\.\d{3}", told.splitlines()[2])
        return
    device, off, host, int8 = json.loads(told)
    assert device["loss"] == host["loss"] == recorded.result("validation_loss")
    assert off["loss"] == recorded.result("memory_off_loss") and off["values"] == "memory off"
    assert host["more"] == 0 and 0 < host["hit_rate"] < 1
    assert 0 < abs(int8["more"]) < 0.01 and int8["hit_rate"] is None


def test_a_model_without_a_memory_has_nothing_to_evaluate_so(runs):
    with pytest.raises(RunError, match="dense has no memory to evaluate; give a run of a variant that has one"):
        CliRunner().invoke(app, ["eval", str(runs / "dense-s0")], catch_exceptions=False)
