"""What a model knows: how likely it finds the right answers, whether it would give them, and the bits it has learned.

Learned bits after Allen-Zhu and Li, "Knowledge capacity scaling laws" (arXiv:2404.05405): a fact with V values that
are alike likely holds log2 V bits, and a model that spends NLL nats on the right one has learned log2 V - NLL / ln 2
of them. Whoever only guesses evenly has learned nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from memlm.data.questions import SEEN, Question, QuestionSet
from memlm.data.tokenizer import END
from memlm.model.decoder import Decoder


@dataclass(frozen=True)
class Encoded:
    """A question as tokens.

    Attributes:
        ids: The end mark, prompt and answer; the end of one text is the beginning of the next.
        n_answer: Tokens of the answer, which are the last.
    """

    ids: list[int]
    n_answer: int


@dataclass(frozen=True, eq=False)
class Answers:
    """How a model does on questions, in their order.

    Attributes:
        nll: Negative log-likelihood of each answer, summed over its tokens, in nats, [N].
        exact: Whether greedy decoding gives the whole answer, [N].
    """

    nll: np.ndarray
    exact: np.ndarray


def encode(questions: Sequence[Question], tokenizer: Tokenizer, seq_len: int) -> list[Encoded]:
    """Returns questions as tokens; the beginning of a prompt is cut off if the inputs are longer than ``seq_len``.

    Prompt and answer are encoded each by itself, which is how they are encoded together wherever the answer begins with
    a space.
    """
    end = tokenizer.token_to_id(END)
    prompts = tokenizer.encode_batch_fast([q.prompt for q in questions], add_special_tokens=False)
    answers = tokenizer.encode_batch_fast([q.answer for q in questions], add_special_tokens=False)
    rows = [([end, *prompt.ids], answer.ids) for prompt, answer in zip(prompts, answers, strict=True)]
    return [Encoded([*prompt, *answer][-seq_len - 1 :], min(len(answer), seq_len)) for prompt, answer in rows]


@torch.inference_mode()
def answer(decoder: Decoder, encoded: Sequence[Encoded], batch_size: int) -> Answers:
    """Returns how likely, and how greedily, a model gives each answer, in eval mode.

    An answer's tokens are scored in one pass, each after the right ones before it. That the likeliest token is right at
    each place is the same as that greedy decoding gives the answer, since both see the same tokens until the first one
    that is wrong. Rows are filled up on the right, where a causal model does not look.

    Args:
        decoder: The model; its mode is restored.
        encoded: As `encode` returns them.
        batch_size: Questions in a batch; those of like length go together.
    """
    device, was_training = decoder.embedding.weight.device, decoder.training
    decoder.eval()
    nll, exact = np.zeros(len(encoded)), np.zeros(len(encoded), dtype=bool)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index].ids))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        rows = [encoded[index] for index in chosen]
        width = len(rows[-1].ids)
        ids = torch.tensor([row.ids + [0] * (width - len(row.ids)) for row in rows], device=device)
        # Which row, and which target of it, each token of an answer is.
        places = [(i, len(row.ids) - 1 - back) for i, row in enumerate(rows) for back in range(row.n_answer, 0, -1)]
        row, place = torch.tensor(places, device=device).unbind(1)
        logits = decoder.logits(decoder(ids[:, :-1]).hidden[row, place]).float()  # [answer tokens, V]
        targets = ids[row, place + 1]
        lost = F.cross_entropy(logits, targets, reduction="none")
        is_wrong = (logits.argmax(-1) != targets).to(lost.dtype)
        summed = torch.zeros(2, len(rows), dtype=torch.float64)  # on the CPU, since not every device has float64
        summed.index_add_(1, row.cpu(), torch.stack([lost, is_wrong]).cpu().double())
        nll[chosen], exact[chosen] = summed[0].numpy(), summed[1].numpy() == 0
    decoder.train(was_training)
    return Answers(nll, exact)


def by_kind(questions: Sequence[Question], answers: Answers) -> dict[str, dict[str, float]]:
    """Returns for each kind of question: mean nats per answer, share of exact matches, and their number."""
    kinds = np.array([question.kind for question in questions])
    return {
        kind: {
            "nll": float(answers.nll[kinds == kind].mean()),
            "exact_match": float(answers.exact[kinds == kind].mean()),
            "n": int((kinds == kind).sum()),
        }
        for kind in dict.fromkeys(question.kind for question in questions)
    }


def learned_bits(asked: QuestionSet, answers: Answers) -> dict[str, float] | None:
    """Returns what was learned of the told facts in bits, from the questions of the kind seen; None if there are none.

    Returns:
        ``total``, the sum over all told facts of max(0, log2 V - NLL / ln 2), scaled up from those asked;
        ``unclipped``, the same without the max, which luck cannot raise; ``possible``, the sum of log2 V;
        ``share`` = total / possible; and ``n``, the facts asked.
    """
    scored = zip(asked.questions, answers.nll, strict=True)
    asked_for = [(q.n_values, nll) for q, nll in scored if q.kind == SEEN and q.n_values]
    if not asked_for:
        return None
    possible = np.array([math.log2(n_values) for n_values, _ in asked_for])
    learned = possible - np.array([nll for _, nll in asked_for]) / math.log(2)
    total, unclipped, most = (
        float(bits.mean()) * asked.n_facts for bits in (np.maximum(learned, 0), learned, possible)
    )
    return {"total": total, "unclipped": unclipped, "possible": most, "share": total / most, "n": len(asked_for)}


def per_parameter(bits: dict[str, float], cost: dict[str, Any]) -> dict[str, float]:
    """Returns learned bits over all parameters, those of the memory, and those that a token goes through.

    Args:
        bits: As `learned_bits` returns them.
        cost: The fields of `memlm.model.cost.Cost`.
    """
    names = {"per_parameter": "parameters", "per_memory_parameter": "memory_parameters"}
    names["per_active_parameter"] = "active_parameters"
    return {name: bits["total"] / cost[field] for name, field in names.items() if cost[field]}
