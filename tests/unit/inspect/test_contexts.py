"""Keeping the highest weights of many reads, where a slot is often read twice at a place."""

import torch

from memlm.bank.vectors import VectorBank
from memlm.inspect.contexts import TOP, Contexts
from memlm.memory.base import MemoryRead

S, LAYERS, SHAPE = 2, [1, 3], (2, 3, 2, 2)


def test_each_place_counts_once_with_its_highest_weight():
    draw = torch.Generator().manual_seed(0)
    contexts, best = Contexts.empty(LAYERS, S, torch.device("cpu")), [{} for _ in range(S)]
    for batch in range(3):
        positions = batch * 6 + torch.arange(6).view(2, 3)
        reads = {
            layer: MemoryRead(
                torch.randint(S, SHAPE, generator=draw),
                torch.randint(1, 17, SHAPE, generator=draw) / 16,  # some are equal
                VectorBank(S, 2),
            )
            for layer in LAYERS
        }
        contexts.add(reads, positions)
        for layer, read in reads.items():
            for b, t, h, k in torch.cartesian_prod(*map(torch.arange, SHAPE)).tolist():
                slot, weight, place = int(read.slots[b, t, h, k]), float(read.weights[b, t, h, k]), int(positions[b, t])
                best[slot][place] = max(best[slot].get(place, (0, 0)), (weight, layer))
    assert max(map(len, best)) > TOP
    for slot, places in enumerate(best):
        # Of equal weights, the place that came first.
        expected = sorted(places, key=lambda place: (-places[place][0], place))[:TOP]
        assert contexts.top_position[slot].tolist() == expected
        assert contexts.top_weight[slot].tolist() == [places[place][0] for place in expected]
        assert set(contexts.top_layer[slot].tolist()) <= set(LAYERS)


def test_a_slot_with_few_reads_has_few_places():
    contexts = Contexts.empty([0], 3, torch.device("cpu"))
    read = MemoryRead(
        torch.tensor([1, 1]).view(1, 2, 1, 1), torch.tensor([0.25, 0.5]).view(1, 2, 1, 1), VectorBank(3, 2)
    )
    contexts.add({0: read}, torch.tensor([[70, 71]]))
    assert contexts.reads.tolist() == [[0, 2, 0]] and contexts.weight.tolist() == [[0, 0.75, 0]]
    assert contexts.top_position.tolist() == [[-1] * TOP, [71, 70, *[-1] * (TOP - 2)], [-1] * TOP]
