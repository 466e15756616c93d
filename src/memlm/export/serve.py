"""Serves a run's model on transformers' own server, which speaks OpenAI's protocol.

That server loads a model by the name of its class, which it looks for in transformers itself; so the class is set
there first. What builds its application is replaced likewise, by one that also checks requests, and what answers
`/v1/responses`, which would stream where nobody asks it to.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers.cli.serve import Serve
from transformers.cli.serving import response, server
from transformers.cli.serving.response import ResponseHandler

from memlm.errors import RunError
from memlm.experiment.edited import open_edited
from memlm.experiment.reading import read_finished
from memlm.experiment.trained import ON_DEVICE, checkpoint_of
from memlm.export.gate import gated
from memlm.hf import MemlmForCausalLM
from memlm.train.loading import loading_errors
from memlm.train.manifest import WEIGHTS


def serve(run: Path, host: str, port: int, tell: Callable[[str, int], None], values: str = ON_DEVICE) -> None:
    """Serves a finished run's model with its edits in force, under the run's name, until the process is told to end.

    Args:
        run: The run's folder.
        host: The address to listen at.
        port: The port.
        tell: Is given the name of the model and the number of its edits, as soon as nothing stands in the way.
        values: How its memory's values are held, as of `open_model`.

    Raises:
        RunError: there is no finished run, or the port cannot be used.
        CheckpointError: the model is damaged.
        EditError: its log of edits is.
    """
    found = read_finished(run.resolve())
    _refuse_taken(host, port)
    edited = open_edited(run, values=values)
    tell(found.name, len(edited.edits))
    positions = edited.model.config.max_position_embeddings
    transformers.MemlmForCausalLM = server_class(edited.model)  # pyright: ignore[reportAttributeAccessIssue]
    response.ResponseHandler = Unstreamed
    build = server.build_server
    server.build_server = lambda *args, **kwargs: gated(build(*args, **kwargs), edited.tokenizer, positions)
    # The server calls a model by its path; one relative to the working folder is a name.
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        _stage(checkpoint_of(found), Path(found.name), edited.tokenizer)
        Serve(force_model=found.name, host=host, port=port, log_level="error")


def server_class(model: MemlmForCausalLM) -> type[MemlmForCausalLM]:
    """Returns the model's class, whose ``from_pretrained`` gives ``model`` with the settings in the folder."""

    class Opened(MemlmForCausalLM):
        @classmethod
        def from_pretrained(cls, folder: str | Path, *_: Any, **__: Any) -> MemlmForCausalLM:
            model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
            return model

    return Opened


class Unstreamed(ResponseHandler):
    """Answers `/v1/responses` in one piece unless it is asked to stream, as OpenAI does."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """Returns the answer."""
        return await super().handle_request({"stream": False} | body, request_id)


def _stage(checkpoint: Path, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Makes a folder of the model with a chat template, and with OpenAI's defaults for what a request leaves out."""
    folder.mkdir()
    for name in WEIGHTS:
        (folder / name).symlink_to(checkpoint / name)
    with loading_errors(checkpoint):
        settings = GenerationConfig.from_pretrained(checkpoint, local_files_only=True)
        settings.update(do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
        settings.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _refuse_taken(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{host}, port {port}: cannot be used ({reason}); choose another with --port") from None
