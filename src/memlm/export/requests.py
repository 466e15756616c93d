"""What a request to the server must be, and how one that cannot be answered is told: in OpenAI's form of an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException


def _refused(value: object) -> None:
    if value is not None and value is not False:
        raise ValueError("is not supported by this server; leave it out")


def _at_most_one(value: object) -> None:
    if value not in (None, 1):
        raise ValueError("this server gives one answer; ask again for another")


def _texts(value: object) -> None:
    among = value if isinstance(value, list) and value else [value]
    if value is not None and not all(isinstance(each, str) for each in among):
        raise ValueError("must be a text or a list of texts")


# These look and give nothing back: of a form that holds, only that it holds is used.
Refused = Annotated[Any, AfterValidator(_refused)]
One = Annotated[Any, AfterValidator(_at_most_one)]
Texts = Annotated[Any, AfterValidator(_texts)]
Tokens = Annotated[int, Field(ge=1)]


class _Asked(BaseModel):
    """What both kinds of request may say; the server looks at the rest."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    max_tokens: Tokens | None = None
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, gt=-1, le=2)  # the server adds 1 and scales by it
    seed: int | None = Field(default=None, ge=-(1 << 63), lt=1 << 63)
    stop: Texts = None
    n: One = None
    logprobs: Refused = None


class Completion(_Asked):
    """The body of ``/v1/completions``."""

    prompt: str = Field(min_length=1)
    suffix: str | None = None
    best_of: One = None
    echo: Refused = None


class Message(BaseModel):
    """One message of a chat."""

    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | list[dict[str, Any]]


class Chat(_Asked):
    """The body of ``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Tokens | None = None
    top_logprobs: Refused = None


FORMS: dict[str, type[_Asked]] = {"/v1/completions": Completion, "/v1/chat/completions": Chat}


def checked(app: FastAPI) -> FastAPI:
    """Has a server refuse bad requests with status 400 before it tries them, and tell every error in OpenAI's form."""

    @app.middleware("http")
    async def refuse(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        form = FORMS.get(request.url.path) if request.method == "POST" else None
        if form is not None:
            try:
                form.model_validate_json(await request.body())
            except ValidationError as error:
                return _first(error.errors())
        return await answer(request)

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        return _error(str(error.detail), status=error.status_code)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return _first(error.errors())

    return app


def _first(problems: Any) -> Response:
    """Returns what tells the first problem that pydantic found."""
    loc, message = problems[0]["loc"], problems[0]["msg"].removeprefix("Value error, ")
    param = str(loc[0]) if loc else None
    where = ".".join(map(str, loc))
    return _error(f"{where}: {message}" if where else message, param)


def _error(message: str, param: str | None = None, status: int = 400) -> Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": None}}, status)
