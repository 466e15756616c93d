"""An exported folder: it computes the same where there is no memlm, and says what it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import CheckpointError, RunError
from memlm.experiment.reading import read_run
from memlm.experiment.trained import open_model
from memlm.export.card import card
from memlm.export.code import flat_code
from memlm.export.folder import export_run
from memlm.model.config import ModelConfig
from memlm.registry import MEMORIES
from tests.tolerances import LOGITS
from tests.unit.export.conftest import VARIANTS

WITHOUT_MEMLM = "import runpy, sys; sys.modules['memlm'] = None; sys.argv.pop(0); runpy.run_path(sys.argv[0])"
"""Runs a script where any import of memlm fails."""
PYTHON = os.environ.get("MEMLM_EXPORT_PYTHON", sys.executable)
"""The interpreter that loads them; `make test-export` names those of environments that hold no memlm."""
TOKENS = torch.arange(2, 22).view(2, 10)


@pytest.fixture(scope="module")
def elsewhere(exported, tmp_path_factory):
    """What the exports computed in a process without memlm, and what it told about them."""
    folder = tmp_path_factory.mktemp("elsewhere")
    script, out = Path(__file__).with_name("elsewhere.py"), folder / "out.safetensors"
    done = subprocess.run(
        [PYTHON, "-I", "-c", WITHOUT_MEMLM, str(script), str(exported), str(out), *VARIANTS],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return load_file(out), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", VARIANTS)
def test_it_computes_the_same_bits_without_memlm(name, elsewhere, runs):
    kept, told = elsewhere
    model, _ = open_model(runs / f"{name}-s0", "cpu")
    with torch.no_grad():
        assert torch.equal(kept[f"{name}.logits"], model(TOKENS).logits)
    assert told[name]["module"].startswith("transformers_modules.") and told[name]["config"] == "MemlmConfig"
    assert told[name]["without_gradient"] == []


def test_a_process_may_load_two_folders_of_one_wiring(elsewhere):
    kept, _ = elsewhere
    assert torch.equal(kept["again.logits"], kept["gated_mlp.logits"])


@pytest.mark.parametrize("name", VARIANTS)
def test_its_cache_changes_nothing(name, elsewhere):
    kept, _ = elsewhere
    for argument in ("cache", "past_key_values"):
        torch.testing.assert_close(kept[f"{name}.{argument}"], kept[f"{name}.logits"][:, 6:], **LOGITS)
    for how in ("with_cache", "static"):
        assert torch.equal(kept[f"{name}.{how}"], kept[f"{name}.without_cache"]), how
    assert torch.equal(kept[f"{name}.alone"][0], kept[f"{name}.with_cache"][0, 4:]), "padding counts"


def test_its_tokenizer_comes_along(elsewhere):
    told = elsewhere[1]["dense"]
    assert told["text"] == "ka lo" and told["chat"] == "ka\n"


@pytest.mark.parametrize("name", VARIANTS)
def test_with_memlm_it_loads_without_the_flag(name, exported, runs):
    loaded = AutoModelForCausalLM.from_pretrained(exported / name)
    model, _ = open_model(runs / f"{name}-s0", "cpu")
    assert type(loaded) is type(model)
    assert torch.equal(loaded(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("memory", MEMORIES.names())
def test_the_code_of_every_memory_stands_alone(memory):
    fields = {"d_model": 32, "memory": {"type": memory}, "fusion": {"type": "weighted_sum"}}
    files = flat_code(ModelConfig.model_validate(fields))
    assert f"memory_{memory}.py" in files
    for name, text in files.items():
        code = compile(text, name, "exec")
        assert "import memlm" not in text and "from memlm" not in text and "triton" not in code.co_names
        assert "fast" not in {part for line in text.splitlines() if "import" in line for part in line.split()}, name


def test_the_card_has_ledger_verdict_and_results(exported, runs):
    text = (exported / "gated_mlp" / "README.md").read_text(encoding="utf-8")
    record = json.loads((runs / "gated_mlp-s0" / "record.json").read_text(encoding="utf-8"))
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert f"| Held-out loss | {record['results']['validation_loss']:.3f} |" in text
    assert "FLOPs per token" in text and "Verdict: inconclusive" in text and "type: product_key" in text
    assert str(runs) not in text and "corpus" not in text


def test_a_run_without_its_experiment_has_a_card_too(runs, tmp_path):
    alone = tmp_path / "gated_mlp-s0"
    alone.symlink_to(runs / "gated_mlp-s0")
    text = card(read_run(alone), alone.parent)
    assert "Held-out loss" in text and "Verdict" not in text


def test_the_command_names_what_it_wrote_and_overwrites_nothing(runs, tmp_path):
    line = ["export", str(runs / "dense-s0"), str(tmp_path / "model")]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0 and "trust_remote_code=True) loads it" in done.output
    written = sorted(path.name for path in (tmp_path / "model").iterdir())
    with pytest.raises(RunError, match="is there already; give a folder that does not exist yet"):
        CliRunner().invoke(app, line, catch_exceptions=False)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == written


def test_what_cannot_be_exported_is_told(runs, tmp_path):
    with pytest.raises(RunError, match="is an experiment; give the folder of one of its runs"):
        export_run(runs, tmp_path / "model")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("record.json", "config.yaml"):
        (broken / name).write_bytes((runs / "dense-s0" / name).read_bytes())
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        export_run(broken, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_code_from_elsewhere_is_refused(monkeypatch):
    config = ModelConfig.model_validate({"memory": {"type": "product_key"}, "fusion": {"type": "gated_mlp"}})
    monkeypatch.setattr(type(config.memory), "__module__", "their_package.memory")
    with pytest.raises(RunError, match=r"memory.type is defined in their_package.memory, outside of memlm"):
        flat_code(config)
