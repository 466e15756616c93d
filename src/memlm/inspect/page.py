"""The page: one HTML file and what it asks for, served on this machine to this machine.

Only names of the loopback interface are answered to, so no other site can reach it through a name of its own (DNS
rebinding). The page may load nothing and ask nobody but this server, and runs the script that it came with alone.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from importlib.resources import files
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from memlm.errors import RunError
from memlm.inspect.inspection import Inspection

HOST = "127.0.0.1"
LONGEST_TEXT = 1 << 20
"""Characters of a text that the page may ask about; the model's own limit is far lower."""


def build_app(inspection: Inspection) -> FastAPI:
    """Returns the application."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    page = (files("memlm.inspect") / "page.html").read_text(encoding="utf-8")

    @app.middleware("http")
    async def _protect(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await answer(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Content-Security-Policy", "default-src 'none'")
        return response

    @app.exception_handler(RunError)
    def _error(_request: Request, error: RunError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status_code=400)

    @app.get("/")
    def _page() -> HTMLResponse:
        nonce = secrets.token_urlsafe()
        own = f"connect-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        policy = f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return HTMLResponse(page.replace("{{nonce}}", nonce), headers={"Content-Security-Policy": policy})

    @app.get("/api/overview")
    def _overview() -> dict[str, Any]:
        return inspection.overview()

    @app.post("/api/reads")
    def _reads(text: Annotated[str, Body(embed=True, max_length=LONGEST_TEXT)]) -> dict[str, Any]:
        return asdict(inspection.read(text))

    @app.get("/api/banks/{bank}/slots/{slot}")
    def _card(bank: int, slot: int) -> dict[str, Any]:
        return asdict(inspection.card(bank, slot))

    @app.get("/api/banks/{bank}/usage")
    def _usage(bank: int, layer: int | None = None) -> Response:
        """Counts as they lie in memory: a million slots are 4 MB, and 10 as JSON."""
        counts = inspection.usage(bank, layer).astype("<u4")
        return Response(counts.tobytes(), media_type="application/octet-stream")

    @app.get("/api/banks/{bank}/search")
    def _search(bank: int, words: str) -> list[dict[str, Any]]:
        return [asdict(hit) for hit in inspection.search(bank, words)]

    return app


def listen(port: int) -> socket.socket:
    """Returns a socket on the loopback interface; port 0 takes one that is free.

    Raises:
        RunError: the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"port {port}: cannot be used ({reason}); leave --port out to get one that is free") from None
    return listener


def serve(inspection: Inspection, listener: socket.socket) -> None:
    """Serves the page until the process is told to end."""
    config = uvicorn.Config(build_app(inspection), log_level="warning")
    uvicorn.Server(config).run(sockets=[listener])
