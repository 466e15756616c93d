"""The recorder of who wrote a slot: it changes nothing, forgets what was not taken, and goes on where it was."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.evaluate.loss import mean_loss, spread_sequences
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.state import TrainingState
from memlm.train.writers import FILE, FOLDER, WriterRecorder, read_writers
from tests.unit.train.test_training import TOKENS, T, new_model, run, weights

SLOTS = [64]


def test_training_is_the_same_with_it(tmp_path):
    watched, free = new_model(), new_model()
    run(watched, tmp_path, "a", record_writers=True), run(free, tmp_path, "b")
    assert all(torch.equal(weights(free)[name], weight) for name, weight in weights(watched).items())
    assert not any(block.fusion._forward_pre_hooks for block in watched.decoder.blocks), "it still watches"
    (found,) = read_writers(tmp_path, SLOTS)
    assert (found.pull > 0).sum() > 10
    assert torch.equal(found.pull > 0, found.step > 0)
    assert ((found.first_read <= found.step) & (found.step <= found.last_read)).all()


def test_micro_steps_are_told_apart(tmp_path):
    """One step of 8 sequences, or of 4 micro-steps of 2: the same token wrote the slot."""
    found = {}
    for name, settings in {"whole": {"batch_size": 8}, "parts": {"batch_size": 2, "accumulation": 4}}.items():
        run(new_model(), tmp_path, name, steps=1, record_writers=True, **settings)
        (found[name],) = read_writers(tmp_path, SLOTS)
    assert torch.equal(found["whole"].index, found["parts"].index)
    assert found["whole"].index.max() >= 2 * T, "all writers stand in the first micro-step, so this shows nothing"


def test_the_writer_is_found_in_the_text(tmp_path):
    """The token that is told reads the slot."""
    model = new_model()
    before = new_model()
    run(model, tmp_path, steps=1, batch_size=8, record_writers=True)
    (found,) = read_writers(tmp_path, SLOTS)
    batch = torch.from_numpy(Sampler(TOKENS, T, 8, 0).batch(0))
    reads = before.decoder(batch[:, :-1]).reads
    for slot in found.step.nonzero().flatten().tolist():
        sequence, token = divmod(found.index[slot].item(), T)
        assert any(slot in read.slots[sequence, token] for read in reads.values())


def test_a_step_that_is_not_taken_leaves_no_writer():
    model = new_model()
    recorder = WriterRecorder(model.decoder)
    ids = torch.from_numpy(TOKENS[: 4 * T].astype(np.int64)).view(4, T)
    for is_finite in (False, True):
        model.decoder(ids).hidden.square().sum().backward()
        recorder.commit(1 + is_finite, torch.tensor(is_finite))
        steps = recorder.tensors()["writers/0/step"]
        assert steps.max() == 2 * is_finite
    recorder.release()


def test_evaluation_leaves_no_trace():
    model = new_model()
    recorder = WriterRecorder(model.decoder)
    mean_loss(model.decoder, spread_sequences(TOKENS, T, 200), 4)
    recorder.commit(1, torch.tensor(True))
    assert all(not tensor.any() for tensor in recorder.tensors().values())
    recorder.release()


def test_frozen_values_are_read_and_not_written(tmp_path):
    sequences = (len(TOKENS) - 1) // T
    run(new_model(), tmp_path, steps=20, batch_size=sequences // 10, train_values_epochs=1, record_writers=True)
    (found,) = read_writers(tmp_path, SLOTS)
    assert found.step.max() <= 10 < found.last_read.max()


def test_a_run_that_goes_on_knows_what_it_knew(tmp_path):
    whole, first = new_model(), new_model()
    states = {}

    def save(state):
        states[state.step] = (
            weights(first),
            TrainingState(state.step, {k: v.clone() for k, v in state.tensors.items()}, state.history),
        )

    run(whole, tmp_path, "a", steps=6, record_writers=True)
    expected = read_writers(tmp_path, SLOTS)
    run(first, tmp_path, "b", steps=6, record_writers=True, save_every=3, hooks=Hooks(save=save))
    saved, state = states[3]
    state.write(tmp_path, {})
    again = new_model(seed=1)
    again.load_state_dict(saved)
    config = TrainConfig(steps=6, batch_size=4, lr=1e-2, evaluate_every=0, device="cpu", record_writers=True)
    with MetricLog(tmp_path / "c", []) as log:
        train(again, Sampler(TOKENS, T, 4, 0), config, log, Hooks(), tmp_path, TrainingState.read(tmp_path))
    for known, told in zip(expected, read_writers(tmp_path, SLOTS), strict=True):
        for name, tensor in vars(known).items():
            assert torch.equal(tensor, vars(told)[name]), name


def test_a_dense_model_has_none(tmp_path):
    run(new_model({}), tmp_path, record_writers=True)
    assert not (tmp_path / FOLDER).exists() and read_writers(tmp_path, []) is None


@pytest.mark.parametrize("content", [b"", b"no tensors", json.dumps({}).encode()])
def test_a_damaged_file_is_one_clear_line(tmp_path, content):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"is damaged.*remove the folder writers"):
        read_writers(tmp_path, SLOTS)


def test_numbers_that_cannot_be_are_told(tmp_path):
    run(new_model(), tmp_path, record_writers=True)
    tensors = load_file(tmp_path / FOLDER / FILE)
    tensors["0/step"][3] = -1
    save_file(tensors, tmp_path / FOLDER / FILE)
    with pytest.raises(RunError, match="is damaged"):
        read_writers(tmp_path, SLOTS)


def test_the_file_of_another_model_is_refused(tmp_path):
    run(new_model(), tmp_path, record_writers=True)
    with pytest.raises(RunError, match="belongs to another model"):
        read_writers(tmp_path, [81])


def test_a_compiled_model_cannot_be_watched():
    with pytest.raises(ValidationError, match="cannot look into a compiled model"):
        TrainConfig(steps=1, compile=True, record_writers=True)
