"""What a request to the server must be, and how one that cannot be answered is told: in OpenAI's form of an error.

A form names what the server acts on. What else a request asks for is refused, and never passed over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Json, ValidationError
from starlette.exceptions import HTTPException
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
ELSEWHERE = ("/v1/models", "/health")
"""What is answered beside requests of text. Transformers' server could also load other models, and unload this one."""


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

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None

    def text(self, tokenizer: PreTrainedTokenizerFast) -> str:
        """Returns all messages as one text."""
        return _conversation(tokenizer, [message.turn() for message in self.messages])


class Responded(_Asked):
    """The body of ``/v1/responses``."""

    prompt_field = "input"

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


def checked(app: FastAPI, tokenizer: PreTrainedTokenizerFast, positions: int) -> FastAPI:
    """Has a server refuse bad requests with status 400 before it tries them, and tell every error in OpenAI's form.

    Args:
        app: The server's application.
        tokenizer: The model's.
        positions: The length that the model was trained on, the most tokens of a prompt.
    """

    @app.middleware("http")
    async def refuse(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path
        if path not in FORMS and path not in ELSEWHERE:
            return _error(
                f"{path}: there is nothing here; this server has {', '.join((*FORMS, *ELSEWHERE))}", status=404
            )
        refusal = None
        if path in FORMS and request.method == "POST":
            refusal = _refusal(FORMS[path], await request.body(), tokenizer, positions)
        return refusal or await answer(request)

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        return _error(str(error.detail), status=error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return _error(f"the server failed ({type(error).__name__}); it has written why", status=500)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return _first(error.errors())

    return app


def _refusal(form: type[_Asked], body: bytes, tokenizer: PreTrainedTokenizerFast, positions: int) -> Response | None:
    """Returns what tells why a request cannot be answered, nothing if it can."""
    try:
        asked = form.model_validate_json(body)
    except ValidationError as error:
        return _first(error.errors())
    for name, value in (asked.model_extra or {}).items():
        if name not in WITHOUT_EFFECT and not _asks_nothing(value, NEUTRAL.get(name, ())):
            return _error(f"{name}: is not supported by this server; leave it out", name)
    n_tokens = len(tokenizer(asked.text(tokenizer)).input_ids)
    if n_tokens > positions:
        told = f"has {n_tokens:,} tokens, and the model was trained on texts of {positions:,}; shorten it"
        return _error(f"{asked.prompt_field}: {told}", asked.prompt_field, code="context_length_exceeded")
    return None


def _asks_nothing(value: object, neutral: tuple[object, ...]) -> bool:
    return value is None or value is False or value in neutral


def _first(problems: Any) -> Response:
    """Returns what tells the first problem that pydantic found."""
    loc, message = problems[0]["loc"], problems[0]["msg"].removeprefix("Value error, ")
    param = str(loc[0]) if loc else None
    where = ".".join(map(str, loc))
    return _error(f"{where}: {message}" if where else message, param)


def _error(message: str, param: str | None = None, status: int = 400, code: str | None = None) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)
