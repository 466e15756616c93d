"""Two and four processes take the steps that one takes."""

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.cases import CASES, SAME, trained
from tests.distributed.launch import torchrun
from tests.tolerances import FLOAT32, GRADIENT


@pytest.fixture(scope="module")
def alone():
    """What one process gives."""
    return {name: trained(case) for name, case in CASES.items()}


@pytest.fixture(scope="module", params=[2, 4])
def together(request, tmp_path_factory):
    """What several processes give, by the name of the case."""
    path = tmp_path_factory.mktemp("ranks") / "found.safetensors"
    ended = torchrun(request.param, "tests.distributed.cases", path)
    assert ended.returncode == 0, ended.stderr
    found = load_file(path)
    return {
        name: {key.removeprefix(f"{name}/"): t for key, t in found.items() if key.startswith(f"{name}/")}
        for name in CASES
    }


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_one_process(name, alone, together):
    expected, found = alone[name], together[name]
    assert found.pop(SAME), "the ranks have drifted apart"
    assert found.keys() == expected.keys()
    torch.testing.assert_close(found["losses"], expected["losses"], **FLOAT32)
    for key, tensor in expected.items():
        if key.startswith("gradient/"):
            torch.testing.assert_close(found[key], tensor, **GRADIENT, msg=lambda text, key=key: f"{key}: {text}")
        if key.startswith("writers/"):
            assert torch.equal(found[key], tensor), key


def test_revival_counts_what_all_ranks_read(alone, together):
    for key, tensor in alone["watched"].items():
        if key.endswith("memory.keys"):
            torch.testing.assert_close(together["watched"][key], tensor, rtol=0, atol=2e-3)
