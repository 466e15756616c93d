"""What is recorded of who wrote a slot is, for every wiring, the gradient that its value got."""

import pytest
import torch

from memlm.model.loss import TokenLoss
from memlm.train.writers import WriterRecorder
from tests.contract.test_wirings import WIRINGS, build, tokens
from tests.tolerances import GRADIENT

# The gate of ngram_hash reads the rows too: their gradient has a part that no fusion passes on, and no pull holds.
# Layers that share a bank of n-grams all read the same rows of it, so no row is read once.
READ_BY_FUSIONS = [
    w for w in WIRINGS if w["memory"] != "ngram_hash" and not (w["memory"] == "ngram_embedding" and w["shared_bank"])
]


@pytest.mark.parametrize("wiring", READ_BY_FUSIONS, ids=lambda w: "-".join(map(str, w.values())))
def test_a_pull_is_the_norm_of_a_reads_part_of_the_gradient(wiring):
    model = build(wiring).train()
    sequences = tokens(batch=2, length=5)
    recorder = WriterRecorder(model.decoder)
    summed, balance = TokenLoss(model.decoder)(sequences)
    (summed + balance).backward()
    recorder.commit(7, torch.tensor(True))
    reads = model.decoder(sequences[:, :-1]).reads
    known = recorder.tensors()
    alone = 0
    for number, bank in enumerate(model.decoder.banks):
        places = [
            (slot, place)
            for layer, read in reads.items()
            if model.decoder.bank_of(layer) is bank
            for place, slots in enumerate(read.slots.flatten(0, 1).flatten(1).tolist())
            for slot in slots
        ]
        found = {
            name: known[f"writers/{number}/{name}"] for name in ("pull", "step", "index", "first_read", "last_read")
        }
        was_read = torch.zeros(bank.n_slots, dtype=torch.bool)
        was_read[[slot for slot, _ in places]] = True
        for name in ("first_read", "last_read"):
            torch.testing.assert_close(found[name], (7 * was_read).int())
        for slot, place in places:
            if [other for other, _ in places].count(slot) > 1:
                continue  # where several reads share a row, its gradient does not tell one from another
            alone += 1
            torch.testing.assert_close(found["pull"][slot], bank.values.grad[slot].norm(), **GRADIENT)
            assert found["index"][slot] == place and found["step"][slot] == 7
    assert alone > 5
    recorder.release()
