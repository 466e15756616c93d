"""`memlm list`: what a YAML file can name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.config.base import Config
from memlm.errors import ConfigError
from memlm.registry import BANKS, ENCODERS, FUSIONS, MEMORIES, Registry, unknown

TYPES: dict[str, Registry[Config]] = {
    "memories": MEMORIES,
    "banks": BANKS,
    "encoders": ENCODERS,
    "fusions": FUSIONS,
}
KINDS = (*TYPES, "corpora")


def command(
    kind: Annotated[
        str, typer.Argument(help="What is listed: memories, banks, encoders, fusions or corpora.", metavar="KIND")
    ],
) -> None:
    """List memories, banks, encoders, fusions or built-in corpora. Settings and defaults are told of each."""
    console = screen.output()
    if kind in TYPES:
        _list_types(console, TYPES[kind])
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
            default = "required" if info.is_required() else f"default {_shown(info.get_default())}"
            description = " ".join((info.description or "").split())
            console.print(f"    {field}  [dim]({default})[/dim]  {description}", markup=True)


def _shown(default: object) -> object:
    return default.model_dump() if isinstance(default, Config) else default
