"""`memlm list`: what a YAML file can name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.config.base import Config
from memlm.errors import ConfigError
from memlm.registry import FUSIONS, MEMORIES, Registry, unknown

KINDS = ("memories", "fusions", "corpora")


def command(kind: Annotated[str, typer.Argument(help="memories, fusions or corpora")]) -> None:
    """List the memories, fusions or built-in corpora, with their settings."""
    console = screen.output()
    if kind == "memories":
        _list_types(console, MEMORIES)
    elif kind == "fusions":
        _list_types(console, FUSIONS)
    elif kind == "corpora":
        from memlm.data.corpus import BUILT_IN

        for name, corpus in BUILT_IN.items():
            console.print(f"[bold]{name}[/bold]  {corpus.description}", markup=True)
            if corpus.settings is not None:
                _list_fields(console, corpus.settings)
    else:
        raise ConfigError(unknown("kind", kind, KINDS))


def _list_types(console: Console, registry: Registry[Config]) -> None:
    for name in registry.names():
        cls = registry.get(name)
        summary = (cls.__doc__ or "").strip().splitlines()[0]
        console.print(f"[bold]{name}[/bold]  {summary}", markup=True)
        _list_fields(console, cls)


def _list_fields(console: Console, cls: type[Config]) -> None:
    for field, info in cls.model_fields.items():
        if field != "type":
            default = "required" if info.is_required() else f"default {info.get_default()}"
            description = " ".join((info.description or "").split())
            console.print(f"    {field}  [dim]({default})[/dim]  {description}", markup=True)
