"""How `memlm generate` and `memlm chat` choose tokens, and write them as they come."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memlm.errors import RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from memlm.hf import MemlmForCausalLM

NewTokensOption = Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to write.")]
TemperatureOption = Annotated[float, typer.Option("--temperature", "-t", min=0, help="0 takes the likeliest token.")]
TopKOption = Annotated[int, typer.Option("--top-k", min=0, help="Choose among this many tokens; 0: among all.")]
TopPOption = Annotated[float, typer.Option("--top-p", min=0, max=1, help="Choose among the tokens of this likelihood.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, max=2**64 - 1, help="Draw the same tokens again.")]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; `generate` draws each from torch's random state."""

    new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None

    def settings(self) -> dict[str, Any]:
        """Returns the arguments of transformers' ``generate``."""
        if self.temperature == 0:
            return {"max_new_tokens": self.new_tokens, "do_sample": False}
        chosen = {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}
        return {"max_new_tokens": self.new_tokens, "do_sample": True, **chosen}


@contextmanager
def utf8_alone() -> Generator[None]:
    """Refuses text that is no UTF-8: reading a pipe fails on it inside, and encoding what was typed.

    Raises:
        RunError: there is such text.
    """
    try:
        yield
    except UnicodeError:
        raise RunError("the text is not UTF-8; convert it, as with iconv -t UTF-8") from None


def write(
    model: MemlmForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompt: str,
    sampling: Sampling,
    show: Callable[[str], None],
) -> str:
    """Lets a model go on with a text and returns what it wrote.

    A prompt that leaves no room for the new tokens in the length that the model was trained on loses its beginning.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: The text.
        sampling: How tokens are chosen.
        show: Is given the new text, piece by piece, as soon as it is certain.
    """
    import torch
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            written.append(text)
            show(text)

    if sampling.seed is not None:
        torch.manual_seed(sampling.seed)
    written: list[str] = []
    room = max(1, model.config.max_position_embeddings - sampling.new_tokens)
    ids = tokenizer(prompt, return_tensors="pt").input_ids[:, -room:]
    if not ids.shape[1]:  # an empty prompt: the end of one text is the beginning of the next
        ids = torch.tensor([[tokenizer.eos_token_id]])
    ids = ids.long().to(model.device)
    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    mask = torch.ones_like(ids)
    model.generate(ids, attention_mask=mask, streamer=streamer, **sampling.settings())  # pyright: ignore[reportAttributeAccessIssue]  (transformers types it for no real class)
    return "".join(written)
