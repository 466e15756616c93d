"""What a request to the server must be, and how one that cannot be answered is told: in OpenAI's form of an error.

A form names what the server acts on. What else a request asks for is refused, and never passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError
from pydantic_core import from_json, to_json
from transformers import PreTrainedTokenizerFast

WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "stream_options",
        "user",
    }
)
"""What a request may say and no answer depends on."""
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "include": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "text": ({"format": {"type": "text"}},),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
}
"""With which values, beside null and false, a field asks for nothing; the server can do nothing else of it."""
TOO_LONG = "context_length_exceeded"
"""OpenAI's name of an error."""


def _texts(value: object) -> None:
    among = value if isinstance(value, list) and value else [value]
    if value is not None and not all(isinstance(each, str) for each in among):
        raise ValueError("must be a text or a list of texts")


# This looks and gives nothing back: of a form that holds, it is not used.
Texts = Annotated[Any, AfterValidator(_texts)]
Tokens = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class Sampling(BaseModel):
    """How tokens are drawn, in transformers' words: what JSON in the text ``generation_config`` may say."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    do_sample: bool = False
    max_new_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, gt=0)
    top_k: int | None = Field(default=None, ge=0)
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: float | None = Field(default=None, gt=0)


class _Asked(_Form):
    """What every kind of request may say."""

    prompt_field: ClassVar[str]
    limit_fields: ClassVar[tuple[str, ...]] = ("max_tokens",)
    """What says how many tokens may be written; the first that is given counts."""

    model: Any = None
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: Share | None = None
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    generation_config: Json[Sampling] | None = None
    parallel_tool_calls: bool = False  # without effect, but the server repeats it

    def text(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Returns what the model goes on with."""
        raise NotImplementedError

    def limit(self) -> tuple[str, int] | None:
        """Returns how many tokens may be written, after the name of what says so; None if nothing does."""
        for name in self.limit_fields:
            if (n_tokens := getattr(self, name)) is not None:
                return name, n_tokens
        if self.generation_config is None or self.generation_config.max_new_tokens is None:
            return None
        return "generation_config.max_new_tokens", self.generation_config.max_new_tokens


class _Penalised(_Asked):
    max_tokens: Tokens | None = None
    frequency_penalty: float | None = Field(default=None, gt=-1, le=2)  # the server adds 1 and scales by it
    stop: Texts = None


class Completion(_Penalised):
    """The body of ``/v1/completions``."""

    prompt_field = "prompt"

    prompt: str = Field(min_length=1)
    suffix: str | None = None

    def text(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Returns the prompt."""
        return self.prompt


class Part(_Form):
    """A part of a message; the server would pass over one that is no text."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class Message(_Form):
    """One message of a conversation; what it says of tools, the model would not be given."""

    role: str
    content: str | list[Part]
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def turn(self) -> dict[str, str]:
        """Returns it as the chat template takes it, joined as the server does."""
        content = self.content if isinstance(self.content, str) else " ".join(part.text for part in self.content)
        return {"role": self.role, "content": content}


class Chat(_Penalised):
    """The body of ``/v1/chat/completions``."""

    prompt_field = "messages"
    limit_fields = ("max_completion_tokens", "max_tokens")

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None

    def text(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Returns all messages as one text."""
        return _conversation(tokenizer, [message.turn() for message in self.messages])


class Responded(_Asked):
    """The body of ``/v1/responses``."""

    prompt_field = "input"
    limit_fields = ("max_output_tokens",)

    input: Annotated[str, Field(min_length=1)] | Annotated[list[Message], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None

    def text(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Returns the instructions, which take the place of a system's message, and the input as one text."""
        given = [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        turns = [message.turn() for message in given]
        if self.instructions:
            rest = turns[1:] if turns[0]["role"] == "system" else turns
            turns = [{"role": "system", "content": self.instructions}, *rest]
        return _conversation(tokenizer, turns)


def _conversation(tokenizer: PreTrainedTokenizerFast, turns: list[dict[str, str]]) -> str:
    return str(tokenizer.apply_chat_template(turns, tokenize=False))


FORMS: dict[str, type[_Asked]] = {
    "/v1/completions": Completion,
    "/v1/chat/completions": Chat,
    "/v1/responses": Responded,
}


def checked(
    kind: type[_Asked], body: bytes, tokenizer: PreTrainedTokenizerFast, positions: int
) -> bytes | JSONResponse:
    """Returns a request as the server is to answer it, or what tells why it cannot.

    A request that does not say how much is to be written gets what its prompt leaves of the model's length.

    Args:
        kind: What the request must be.
        body: What came, JSON.
        tokenizer: The model's.
        positions: The length that the model was trained on, the most tokens of a prompt and its answer.
    """
    try:
        asked = kind.model_validate_json(body)
    except ValidationError as error:
        return first(error.errors())
    for name, value in (asked.model_extra or {}).items():
        if name not in WITHOUT_EFFECT and not _asks_nothing(value, NEUTRAL.get(name, ())):
            return refusal(f"{name}: is not supported by this server; leave it out", name)
    n_tokens = len(tokenizer(asked.text(tokenizer)).input_ids)
    room, limit = positions - n_tokens, asked.limit()
    most = f"the model's maximum context length is {positions:,} tokens, that of the texts that it was trained on"
    if room < 1:
        told = f"{asked.prompt_field}: has {n_tokens:,} tokens, and {most}; shorten it, an answer needs room too"
        return refusal(told, asked.prompt_field, code=TOO_LONG)
    if limit is None:
        return to_json({**from_json(body), asked.limit_fields[0]: room})
    name, n_wanted = limit
    if n_wanted > room:
        told = (
            f"{name}: {n_wanted:,} tokens after the {n_tokens:,} of {asked.prompt_field}, and {most}; ask for {room:,}"
        )
        return refusal(told, name.split(".")[0], code=TOO_LONG)
    return body


def _asks_nothing(value: object, neutral: tuple[object, ...]) -> bool:
    return value is None or value is False or value in neutral


def first(problems: Any) -> JSONResponse:
    """Returns what tells the first problem that pydantic found."""
    loc, message = problems[0]["loc"], problems[0]["msg"].removeprefix("Value error, ")
    param = str(loc[0]) if loc else None
    where = ".".join(map(str, loc))
    return refusal(f"{where}: {message}" if where else message, param)


def refusal(message: str, param: str | None = None, status: int = 400, code: str | None = None) -> JSONResponse:
    """Returns an error in OpenAI's form.

    Args:
        message: What is wrong, and how to mend it.
        param: The field that it is about, if it is about one.
        status: HTTP's.
        code: OpenAI's name of this error, if it has one.
    """
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
