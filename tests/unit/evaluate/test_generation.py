import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from memlm.config.evaluate import EvaluateConfig
from memlm.errors import DataError
from memlm.evaluate.generation import continuations, evaluate_generation
from memlm.evaluate.quality import fit_judge

VOCAB, EOS = 40, 2
CONFIG = EvaluateConfig(samples=6, prompt_tokens=5, new_tokens=9)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            eos_token_id=EOS,
            attention_dropout=0.5,
        )
    )


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return (np.random.default_rng(0).zipf(1.3, size=2000) % VOCAB).astype(np.uint16)


@pytest.fixture
def prompts() -> torch.Tensor:
    return torch.arange(15).reshape(3, 5)


def test_the_seed_alone_decides(model, prompts):
    first = continuations(model, prompts, new_tokens=9, temperature=1.0, seed=1)
    torch.manual_seed(77)
    assert torch.equal(first, continuations(model, prompts, new_tokens=9, temperature=1.0, seed=1))
    assert not torch.equal(first, continuations(model, prompts, new_tokens=9, temperature=1.0, seed=2))
    assert first.shape == (3, 9)


@pytest.mark.parametrize("training", [True, False])
def test_the_random_state_and_the_mode_stay(model, prompts, training):
    model.train(training)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    continuations(model, prompts, new_tokens=4, temperature=1.0, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training is training


def test_dropout_is_off(model, prompts):
    in_eval, in_training = (
        continuations(model.train(training), prompts, new_tokens=20, temperature=1.0, seed=1)
        for training in (False, True)
    )
    assert torch.equal(in_eval, in_training)


def test_an_end_of_text_token_ends_nothing(model, prompts):
    certain = LlamaForCausalLM(model.config)
    certain.lm_head.weight.data.zero_()  # uniform over the vocabulary: the end of text is bound to come up
    found = continuations(certain, prompts, new_tokens=200, temperature=1.0, seed=1)
    assert found.shape == (3, 200)
    assert (found == EOS).any()
    after = found[0, int((found[0] == EOS).nonzero()[0]) + 1 :]
    assert len(after.unique()) > 20


def test_samples_follow_the_full_distribution(model):
    prompt = torch.tensor([[1, 2, 3]])
    drawn = continuations(model.eval(), prompt.expand(8000, 3), new_tokens=1, temperature=0.5, seed=3)
    expected = (model(prompt).logits[0, -1] / 0.5).softmax(-1)
    found = torch.bincount(drawn.flatten(), minlength=VOCAB) / 8000
    assert (found - expected).abs().max() < 0.012  # 4 standard errors of the likeliest token


def test_evaluation_is_the_same_for_every_model_but_for_what_it_writes(model, ids):
    judge = fit_judge(ids[:1000], VOCAB)
    held_out = ids[1000:]
    found, samples = evaluate_generation(model, held_out, judge, CONFIG, seed=0)
    again, others = evaluate_generation(model, held_out, judge, CONFIG, seed=1)
    assert samples.prompts.shape == (6, 5)
    assert samples.real.shape == samples.continuations.shape == (6, 9)
    assert 0 <= found.score <= 10
    assert not np.array_equal(samples.continuations, others.continuations)
    assert np.array_equal(samples.prompts, others.prompts)
    for metric, values in found.metrics.items():
        assert values["real"] == again.metrics[metric]["real"]
        assert values["unigram"] == again.metrics[metric]["unigram"]


def test_passages_are_spread_over_the_held_out_text(model, ids):
    held_out = np.arange(1000) % VOCAB
    _, samples = evaluate_generation(model, held_out, fit_judge(ids, VOCAB), CONFIG, seed=0)
    passages = np.concatenate([samples.prompts, samples.real], axis=1)
    starts = np.linspace(0, 1000 - 14, 6).astype(int)
    assert np.array_equal(passages, [held_out[start : start + 14] for start in starts])


def test_a_held_out_text_that_is_too_short_is_refused(model, ids):
    with pytest.raises(DataError, match="13 tokens, but a prompt and its continuation need 14"):
        evaluate_generation(model, ids[:13], fit_judge(ids, VOCAB), CONFIG, seed=0)
