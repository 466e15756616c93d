"""The `data` section: which text, how it is cut into tokens, and which part of it is held out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from memlm.config.base import Config, Count, either
from memlm.config.facts import FactsConfig

FACTS = "facts"
"""The built-in corpus that is a generated world."""

Text = Annotated[str | list[str], either("must be text or a list of texts")]


class DataConfig(Config):
    """Text and tokens. Paths are relative to the folder that the command runs in."""

    corpus: Text
    """A built-in corpus (`memlm list corpora`), a path or pattern of .jsonl[.gz|.xz|.zst] files, a folder of .txt and
    .md files, or `hub:owner/name` for a data set of the Hugging Face hub; or a list of these."""
    validation: Text | None = None
    """Text held out for evaluation, given as `corpus` is; without it, `validation_share` of the documents."""
    test: Text | None = None
    """Text held out for one last evaluation (`evaluate.split: test`), given as `corpus` is; nothing else reads it."""
    tune: Text | None = None
    """Text that only `memlm tune` evaluates on, given as `corpus` is; without it, `tune_share` of the documents."""
    text_field: str = "text"
    """The field of a JSON line (or the column of a hub data set) that holds the text."""
    vocab_size: int = Field(default=6400, ge=272)
    """Size of the byte-level BPE vocabulary (256 bytes and the special tokens included)."""
    tokenizer: str | None = None
    """A tokenizer.json to use instead of training one; its size must be `vocab_size`."""
    seq_len: int = Field(default=512, ge=8)
    """Tokens in one sequence."""
    validation_share: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the documents held out when `validation` is not given."""
    test_share: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the documents held out for one last evaluation when `test` is not given; 0 holds out none."""
    judge_share: float = Field(default=0.05, gt=0, lt=0.5)
    """Share of the documents that only the n-gram judge of generated text is fitted on."""
    tune_share: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the documents that only `memlm tune` evaluates on when `tune` is not given; no run sees them."""
    max_bytes: Count | None = Field(default=None, gt=0)
    """Read no more than this many bytes of training text (powers of ten: 20M)."""
    on_bad_input: Literal["error", "skip"] = "error"
    """What to do with a broken line or file: stop with its place, or skip it and tell the count."""
    facts: FactsConfig = FactsConfig()
    """The world that `corpus: facts` generates; it says itself which of its text is held out."""

    @property
    def has_facts(self) -> bool:
        """Whether the corpus has a generated world in it, and so questions to ask."""
        return FACTS in ([self.corpus] if isinstance(self.corpus, str) else self.corpus)

    @property
    def is_generated(self) -> bool:
        """Whether the corpus is a generated world and nothing else."""
        return self.corpus in (FACTS, [FACTS])

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if not self.corpus:
            yield "corpus", "names no text"
        if self.validation is not None and self.changes("validation_share"):
            yield "validation_share", "has no effect, because validation names the held-out text"
        if not self.has_facts and self.changes("facts"):
            yield "facts", "has no effect, because corpus does not name facts"
        if FACTS in ([self.validation] if isinstance(self.validation, str) else self.validation or []):
            yield (
                "validation",
                "cannot be facts; corpus: facts brings held-out text of its world by itself",
            )
        if self.is_generated:
            for name in ("validation_share", "judge_share", "tune_share", "test_share", "max_bytes", "text_field"):
                if self.changes(name):
                    other = "memlm tune makes another world of its own" if name == "tune_share" else "see facts"
                    yield name, f"has no effect, because the corpus is generated; {other}"
            if self.validation is not None:
                yield (
                    "validation",
                    "would be mixed with the held-out text that corpus: facts brings; leave it out",
                )
        for name in ("test", "tune"):
            if getattr(self, name) is not None and self.changes(f"{name}_share"):
                yield f"{name}_share", f"has no effect, because {name} names the held-out text"
