"""Two and four processes take the steps that one takes; with two GPUs, two of them (`-m gpu`)."""

from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from memlm.train.traffic import Reading, columns
from tests.distributed.cases import BATCH_SIZE, CASES, COMPILED, SAME, SENT, SEQ_LEN, STEPS, trained
from tests.distributed.launch import torchrun
from tests.tolerances import BFLOAT16, FLOAT32, GRADIENT


def on(device, ranks):
    marks = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < ranks, reason="too few GPUs")]
    return pytest.param((device, ranks), marks=marks if device == "cuda" else [], id=f"{device}-{ranks}")


GPUS = on("cuda", 2)


@pytest.fixture(scope="module", params=[on("cpu", 2), on("cpu", 4), GPUS])
def started(request):
    """The device, and how many processes train on it."""
    return request.param


@pytest.fixture(scope="module")
def one_process():
    """What one process gives, by device and name of the case; each is trained once."""
    return cache(lambda device, name: trained((CASES | COMPILED)[name].plain(), device))


@pytest.fixture
def alone(started, one_process):
    """What one process gives, asked by the name of the case."""
    device, _ = started
    return lambda name: one_process(device, name)


def trained_by_all(started, names, path):
    """Has several processes train the cases; returns what they give, by the name of the case."""
    device, ranks = started
    ended = torchrun(ranks, "tests.distributed.cases", path, device, *names, timeout_s=600)
    assert ended.returncode == 0, ended.stderr
    found = load_file(path)
    return {"ranks": ranks} | {
        name: {key.removeprefix(f"{name}/"): t for key, t in found.items() if key.startswith(f"{name}/")}
        for name in names
    }


@pytest.fixture(scope="module")
def together(started, tmp_path_factory):
    """What several processes give, by the name of the case."""
    return trained_by_all(started, CASES, tmp_path_factory.mktemp("ranks") / "found.safetensors")


@pytest.fixture(scope="module")
def together_compiled(started, tmp_path_factory):
    """The same of compiled cases: apart, since the compiler alone takes minutes."""
    return trained_by_all(started, COMPILED, tmp_path_factory.mktemp("compiled") / "found.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_one_process(name, alone, together):
    expected, found = alone(name), together[name]
    assert found[SAME], "the ranks have drifted apart"
    assert found.keys() - {SAME, SENT} == expected.keys()
    torch.testing.assert_close(found["norm"], expected["norm"], **FLOAT32)
    torch.testing.assert_close(found["losses"], expected["losses"], **FLOAT32)
    for key, tensor in expected.items():
        if key.startswith("gradient/"):
            torch.testing.assert_close(found[key], tensor, **GRADIENT, msg=lambda text, key=key: f"{key}: {text}")
        if key.startswith("writers/"):
            assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", ["sharded", "sharded_dense", "sharded_tokens"])
def test_a_rank_holds_its_part_of_a_sharded_model(name, alone, together):
    whole, held = alone(name)["held"].item(), together[name]["held"].item()
    assert whole / together["ranks"] <= held < 1.05 * whole / together["ranks"]


@pytest.mark.gpu
@pytest.mark.parametrize("started", [GPUS], indirect=True)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_in_16_bits_losses_are_those_of_one_process_without_the_compiler(name, alone, together_compiled):
    expected, found = alone(name), together_compiled[name]
    assert found[SAME], "the ranks have drifted apart"
    torch.testing.assert_close(found["norm"], expected["norm"], **BFLOAT16)
    torch.testing.assert_close(found["losses"], expected["losses"], **BFLOAT16)


@pytest.mark.parametrize(("name", "is_summed"), [("columns", True), ("columns_attention", False)])
def test_what_is_sent_for_columns_is_what_was_counted(name, is_summed, together):
    case, ranks = CASES[name], together["ranks"]
    micro_steps = STEPS * case.train.get("accumulation", 1)
    reading = Reading(BATCH_SIZE // ranks * SEQ_LEN, 2, 6, 64, 12, is_summed)
    assert together[name][SENT].item() == micro_steps * columns(reading, ranks)


def test_revival_counts_what_all_ranks_read(alone, together):
    for key, tensor in alone("watched").items():
        if key.endswith("memory.keys"):
            torch.testing.assert_close(together["watched"][key], tensor, rtol=0, atol=2e-3)
