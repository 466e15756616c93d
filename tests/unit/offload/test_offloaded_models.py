"""Models loaded with their values elsewhere give the logits of the model loaded as usual."""

from pathlib import Path

import pytest
import torch

from memlm.errors import CheckpointError, RunError
from memlm.experiment.trained import open_model
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.offload import HELD, load
from tests.tolerances import FLOAT32
from tests.unit.export.conftest import runs as runs  # a fixture is found by its name

TOKENS = torch.randint(320, (3, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def held(runs):
    return lambda variant, values: open_model(runs / f"{variant}-s0", "cpu", values)[0]


@pytest.mark.parametrize("values", ["host", "mapped"])
@pytest.mark.parametrize("variant", ["gated_mlp", "cross_attention"])
def test_logits_are_the_same_bit_for_bit(held, variant, values):
    right, model = held(variant, "device"), held(variant, values)
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, right(TOKENS).logits)
    assert {bank.traffic().reads for bank in model.decoder.banks} == {3 * 16 * 6 * 2}, "a bank for both layers"
    settings = {"max_new_tokens": 8, "do_sample": False}
    assert torch.equal(model.generate(TOKENS, **settings), right.generate(TOKENS, **settings))
    assert model.generation_config == right.generation_config and not model.training


@pytest.mark.parametrize("variant", ["gated_mlp", "cross_attention"])
def test_8_bits_move_logits_little(held, variant):
    right, model = held(variant, "device"), held(variant, "int8")
    with torch.no_grad():
        off = (model(TOKENS).logits - right(TOKENS).logits).norm() / right(TOKENS).logits.norm()
    assert 0 < off < 1 / 127


def test_a_mapped_bank_reads_the_file_itself(runs):
    model = load(runs / "gated_mlp-s0" / "checkpoint", "mapped", torch.device("cpu"))
    (bank,) = model.decoder.banks
    address = bank.source.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= address < last:
            assert line.endswith("model.safetensors")
            break
    else:
        raise AssertionError("the values are mapped nowhere")
    assert all(p.data_ptr() % 64 == 0 for p in model.parameters()), "all others are copies of their own"


@pytest.mark.parametrize("values", HELD)
@pytest.mark.parametrize("variant", ["dense", "ngram"])
def test_a_model_without_vectors_is_refused(held, variant, values):
    with pytest.raises(RunError, match=f"no bank of vectors to hold on {values}; leave --values out"):
        held(variant, values)


def test_a_damaged_model_is_told(runs, tmp_path):
    import shutil

    shutil.copytree(runs / "gated_mlp-s0", tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="is damaged"):
        open_model(tmp_path / "run", "cpu", "host")


@pytest.mark.parametrize("values", HELD)
@pytest.mark.parametrize("fusion", ["weighted_sum", "one_neuron_experts", "gated_mlp"])
def test_values_of_16_bits_are_held_as_well(tmp_path, fusion, values):
    torch.manual_seed(0)
    memory = {"type": "product_key", "n_keys": 4, "d_key": 16, "d_value": 32, "top_k": 2}
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "fusion": {"type": fusion}}
    narrow, wide = (
        MemlmForCausalLM(MemlmConfig(model=shape | {"memory": memory | bank}, vocab_size=320))
        for bank in ({"bank": {"type": "vectors", "dtype": "bfloat16"}}, {})
    )
    wide.load_state_dict(narrow.state_dict())
    logits = []
    for name, saved in (("narrow", narrow), ("wide", wide)):
        saved.save_pretrained(tmp_path / name)
        with torch.no_grad():
            logits.append(load(tmp_path / name, values, torch.device("cpu"))(TOKENS).logits)
    torch.testing.assert_close(*logits, **FLOAT32)
