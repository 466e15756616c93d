"""Answers: their likelihood against brute force, exact match against generation, and learned bits of a known model."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from memlm.config.facts import FactsConfig
from memlm.data.asking import ask
from memlm.data.facts import train_documents
from memlm.data.questions import KINDS, Question, QuestionSet
from memlm.data.tokenizer import END, train_tokenizer
from memlm.data.world import World
from memlm.evaluate.recall import Answers, Encoded, answer, by_kind, encode, learned_bits, per_parameter
from memlm.hf import MemlmConfig, MemlmForCausalLM

V = 300


@pytest.fixture(scope="module")
def world():
    return World(FactsConfig(entities=30, values=16, exposures=4))


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer((document.text for document in train_documents(world)), V)


@pytest.fixture(scope="module", params=[None, "gated_mlp", "cross_attention"])
def model(request):
    """Far from its initial state, so that it prefers some tokens to others."""
    torch.manual_seed(0)
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2}
    if request.param is not None:
        memory = {"type": "product_key", "n_keys": 6, "d_key": 8, "d_value": 8, "top_k": 2}
        shape |= {"memory": memory, "fusion": {"type": request.param}}
    model = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=V, bos_token_id=0, eos_token_id=0, pad_token_id=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model


def brute_force(model, row):
    """The whole row alone, without a gap: the sum over its last tokens."""
    ids = torch.tensor([row.ids])
    logs = model.eval()(ids).logits[0].double().log_softmax(-1)
    return -sum(logs[place - 1, row.ids[place]].item() for place in range(len(row.ids) - row.n_answer, len(row.ids)))


def test_likelihood_equals_brute_force_whatever_the_batches(model, world, tokenizer):
    encoded = encode(list(ask(world, 6)), tokenizer, 64)
    assert len({len(row.ids) for row in encoded}) > 5 and len({row.n_answer for row in encoded}) > 1
    expected = [brute_force(model, row) for row in encoded]
    for batch_size in (1, 7, 100):
        np.testing.assert_allclose(answer(model.decoder, encoded, batch_size).nll, expected, rtol=1e-5)


def test_exact_match_is_what_greedy_generation_gives(model, world, tokenizer):
    prompts = [row.ids[: -row.n_answer] for row in encode(list(ask(world, 6)), tokenizer, 64)]
    rows = []
    for index, prompt in enumerate(prompts):
        n = 1 + index % 4
        ids = torch.tensor([prompt])
        made = model.generate(ids, max_new_tokens=n, min_new_tokens=n, do_sample=False, suppress_tokens=None)
        ids = made[0].tolist()
        rows.append((Encoded(ids, n), True))
        for wrong in range(n):
            changed = list(ids)
            changed[len(prompt) + wrong] = (changed[len(prompt) + wrong] + 1) % V
            rows.append((Encoded(changed, n), False))
    found = answer(model.decoder, [row for row, _ in rows], 16).exact
    # min_new_tokens keeps generation from ending early, so a greedy end mark is no difference between the two.
    usable = [0 not in row.ids[-row.n_answer :] for row, _ in rows]
    assert found[usable].tolist() == [expected for (_, expected), use in zip(rows, usable, strict=True) if use]
    assert sum(usable) > 50


def test_a_model_keeps_its_mode(model, world, tokenizer):
    model.decoder.train()
    answer(model.decoder, encode(list(ask(world, 1)), tokenizer, 64), 2)
    assert model.decoder.training and model.decoder.blocks[0].training


def test_questions_are_encoded_as_training_text_is(world, tokenizer):
    questions = list(ask(world, 10))
    for question, row in zip(questions, encode(questions, tokenizer, 64), strict=True):
        whole = tokenizer.encode(question.prompt + question.answer, add_special_tokens=False).ids
        assert row.ids == [tokenizer.token_to_id(END), *whole]
        assert tokenizer.decode(row.ids[-row.n_answer :]) == question.answer


def test_a_long_prompt_loses_its_beginning(tokenizer):
    question = Question("one two three four five six seven eight nine ten", " eleven", "file")
    (whole,), (cut,) = encode([question], tokenizer, 200), encode([question], tokenizer, 12)
    assert cut.ids == whole.ids[-13:] and cut.n_answer == whole.n_answer < 12
    (short,) = encode([question], tokenizer, 2)
    assert (len(short.ids), short.n_answer) == (3, 2), "every token of an answer has one before it"


class Bigrams(nn.Module):
    """A decoder that knows one thing: how likely each token follows the one before it."""

    def __init__(self, chances):
        super().__init__()
        self.embedding = nn.Embedding(len(chances), 1)
        self.logs = torch.tensor(chances).log()

    def forward(self, ids):
        return SimpleNamespace(hidden=self.logs[ids])

    def logits(self, hidden):
        return hidden


def test_learned_bits_of_a_model_with_known_chances():
    """Entities 0 to 3 know their value 4 to 7 for certain, by half, by chance, and less than by chance."""
    chances = torch.full((8, 8), 1e-30)
    for entity, right in enumerate((1.0, 0.5, 0.25, 0.125)):
        chances[entity, 4:] = (1 - right) / 3 + 1e-30
        chances[entity, 4 + entity] = right
    encoded = [Encoded([entity, 4 + entity], 1) for entity in range(4)]
    answers = answer(Bigrams(chances.tolist()), encoded, 3)
    np.testing.assert_allclose(answers.nll / math.log(2), [0, 1, 2, 3], atol=1e-6)
    assert answers.exact.tolist()[:2] == [True, True] and not answers.exact[3]
    questions = [Question("", "", "seen", n_values=4)] * 4
    bits = learned_bits(QuestionSet(questions, n_facts=40), answers)
    assert bits == pytest.approx({"total": 30.0, "unclipped": 20.0, "possible": 80.0, "share": 0.375, "n": 4})


def test_learned_bits_are_of_seen_facts_alone():
    questions = [Question("", "", "seen", n_values=8), Question("", "", "paraphrase", n_values=8)]
    answers = Answers(np.array([0.0, 9.0]), np.array([True, False]))
    assert learned_bits(QuestionSet(questions, 5), answers)["total"] == 15
    assert learned_bits(QuestionSet(questions[1:], 5), Answers(answers.nll[1:], answers.exact[1:])) is None
    assert by_kind(questions, answers) == {
        "seen": {"nll": 0.0, "exact_match": 1.0, "n": 1},
        "paraphrase": {"nll": 9.0, "exact_match": 0.0, "n": 1},
    }
    assert {question.kind for question in questions} < set(KINDS)


def test_bits_for_each_parameter():
    cost = {"parameters": 100, "memory_parameters": 50, "active_parameters": 60}
    expected = {"per_parameter": 0.3, "per_memory_parameter": 0.6, "per_active_parameter": 0.5}
    assert per_parameter({"total": 30.0}, cost) == pytest.approx(expected)
    assert "per_memory_parameter" not in per_parameter({"total": 30.0}, cost | {"memory_parameters": 0})
