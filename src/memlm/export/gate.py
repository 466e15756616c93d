"""What stands before transformers' server: only requests that it can answer come through.

It is an ASGI application around another, so that it can count a body while it comes and hand on a changed one.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers import PreTrainedTokenizerFast

from memlm.export.requests import FORMS, checked, first, refusal

ELSEWHERE = ("/v1/models", "/health")
"""What is answered beside requests of text. Transformers' server could also load other models, and unload this one."""
LARGEST = 1 << 20
"""Bytes of the largest body, far more than a prompt that fits; without a limit one request could fill the memory."""


class Gate:
    """Refuses what cannot be answered.

    Args:
        app: What answers the rest.
        tokenizer: The model's.
        positions: The length that the model was trained on, in tokens.
    """

    def __init__(self, app: ASGIApp, tokenizer: PreTrainedTokenizerFast, positions: int) -> None:
        self.app, self.tokenizer, self.positions = app, tokenizer, positions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or has it answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, body = scope["path"], None
        if path not in FORMS and path not in ELSEWHERE:
            there = ", ".join((*FORMS, *ELSEWHERE))
            body = refusal(f"{path}: there is nothing here; this server has {there}", status=404)
        elif path in FORMS and scope["method"] == "POST":
            try:
                body = await self._admitted(path, Request(scope, receive))
            except ClientDisconnect:
                return
        if isinstance(body, Response):
            await body(scope, receive, send)
        else:
            if body is not None:
                scope, receive = _again(scope, body, receive)
            await self.app(scope, receive, send)

    async def _admitted(self, path: str, request: Request) -> bytes | Response:
        """Returns the body that is handed on, or the refusal."""
        body, length = bytearray(), 0
        async for piece in request.stream():
            length += len(piece)
            if length <= LARGEST:
                body += piece
        if length > LARGEST:  # read to its end, unkept: who is still sending would find the line cut, and no answer
            return refusal(f"the request has more than {LARGEST:,} bytes; shorten it", status=413)
        # Of a long text this takes a second, in which other requests are to be answered.
        return await run_in_threadpool(checked, FORMS[path], bytes(body), self.tokenizer, self.positions)


def gated(app: FastAPI, tokenizer: PreTrainedTokenizerFast, positions: int) -> FastAPI:
    """Has a server refuse bad requests before it tries them, and tell every error in OpenAI's form.

    A request that cannot be answered gets status 400, one whose body is larger than `LARGEST` 413.

    Args:
        app: The server's application.
        tokenizer: The model's.
        positions: The length that the model was trained on, the most tokens of a prompt and its answer.
    """
    app.add_middleware(Gate, tokenizer=tokenizer, positions=positions)

    @app.exception_handler(HTTPException)
    async def told(_: Request, error: HTTPException) -> Response:
        return refusal(str(error.detail), status=error.status_code)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return refusal(f"the server failed ({type(error).__name__}); it has written why", status=500)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return first(error.errors())

    return app


def _again(scope: Scope, body: bytes, receive: Receive) -> tuple[Scope, Receive]:
    """Returns a request with another body, and what gives it and then what else comes: that the client is gone."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    headers.append((b"content-length", str(len(body)).encode()))
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return {**scope, "headers": headers}, replay
