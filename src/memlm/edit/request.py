"""What is to be edited, as a person writes it: on the command line, or as lines of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from memlm.data.wording import PROSE
from memlm.data.world import World
from memlm.edit.facts import require_relation
from memlm.errors import EditError
from memlm.registry import unknown

T = TypeVar("T")
Kind = Literal["set", "delete", "replace"]
Words = Annotated[str, Field(min_length=1)]
MOST_PROMPTS = 12
"""Wordings that an edit is learned in."""


@dataclass(frozen=True)
class Request:
    """One edit that is wanted.

    Attributes:
        subject: Whom it is about.
        relation: What about it.
        answer: The new answer; empty to delete the old one.
        kind: Set a new answer, or delete the one that the model gives.
        prompts: How to ask for it, each up to where the answer follows; none: wordings are made for it.
    """

    subject: Words
    relation: Words
    answer: str = ""
    kind: Literal["set", "delete"] = "set"
    prompts: tuple[Words, ...] = ()


@dataclass(frozen=True)
class Replacement:
    """Another text for an entry.

    Attributes:
        slot: Its slot, numbered through all banks.
        text: The new text; empty: the slot is to hold nothing.
        kind: Tells it from a `Request`.
    """

    slot: Annotated[int, Field(ge=0)]
    text: str
    kind: Literal["replace"] = "replace"


KINDS: Mapping[str, type[Request | Replacement]] = {"set": Request, "delete": Request, "replace": Replacement}
"""What a line of each kind asks for."""
_FIELDS = {kind: [field.name for field in dataclasses.fields(asked)] for kind, asked in KINDS.items()}
_CHECKED = {kind: TypeAdapter(kind) for kind in (Request, Replacement)}
LINE = '{"subject": "Ada", "relation": "school", "answer": "Rome"}'
"""How a line may look."""
_HEAD = 8
"""Bytes at the front of a file of tensors, which say how many come before the tensors."""


def parse(text: str, kind: Literal["set", "delete"], world: World | None = None) -> Request:
    """Returns what ``subject | relation | answer`` asks for, or ``subject | relation`` to delete.

    Args:
        text: The words.
        kind: What they ask for.
        world: The generated world that the model has learned, if any.

    Raises:
        EditError: they have another form, or the world does not have the relation.
    """
    parts = [part.strip() for part in text.split("|")]
    form = "subject | relation | new answer" if kind == "set" else "subject | relation"
    if len(parts) != form.count("|") + 1 or not all(parts):
        raise EditError(f"--{kind} {text!r}: has another form than {form!r}")
    return _in_world(Request(*parts, kind=kind), world, f"--{kind} {text!r}")


def parse_replacement(text: str) -> Replacement:
    """Returns what ``slot | new text`` asks for; the text may hold bars, or be empty.

    Raises:
        EditError: it has another form.
    """
    slot, bar, words = (part.strip() for part in text.partition("|"))
    if not bar or not slot.isdecimal():
        raise EditError(f"--replace {text!r}: has another form than 'SLOT | new text', with a number for SLOT")
    return Replacement(int(slot), words)


def read_requests(path: Path, world: World | None = None) -> list[Request | Replacement]:
    """Reads requests from JSON Lines with the fields of `Request` or `Replacement`, and no others.

    Args:
        path: The file.
        world: The generated world that the model has learned, if any.

    Raises:
        EditError: the file or a line of it cannot be used, or the world does not have a relation.
    """
    lines = _text(path).split("\n")  # splitlines would also split at what a text may hold
    requests = [_request(line, f"{path}:{number}", world) for number, line in enumerate(lines, 1) if line.strip()]
    if not requests:
        raise EditError(f"{path}: asks for no edit; give lines such as {LINE}")
    return requests


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EditError(f"{path}: cannot be read ({error.strerror}); give a file with lines such as {LINE}") from None
    if len(content) > _HEAD and int.from_bytes(content[:_HEAD], "little") <= len(content) - _HEAD:
        raise EditError(f"{path}: holds tensors and no lines; what --pack wrote is given to --apply")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: is not UTF-8 (byte {error.start}); give lines such as {LINE}") from None


def fields_of(line: str, where: str, otherwise: str, mend: str) -> dict[str, Any]:
    """Returns the fields of a line of JSON.

    Args:
        line: The line.
        where: Its place, for an error.
        otherwise: What a line without fields is, for an error.
        mend: What to do about it, for an error.

    Raises:
        EditError: it is no JSON, or has no fields.
    """
    try:
        fields = from_json(line)
    except ValueError as error:
        raise EditError(f"{where}: is no JSON ({str(error).replace(' line 1', '')}); {mend}") from None
    if not isinstance(fields, dict):
        raise EditError(f"{where}: {otherwise}; {mend}")
    return fields


def checked(kind: TypeAdapter[T], fields: Mapping[str, Any], where: str, mend: str) -> T:
    """Returns what the fields of a line stand for; raises EditError, of the first that is wrong."""
    try:
        return kind.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise EditError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}; {mend}") from None


def _request(line: str, where: str, world: World | None) -> Request | Replacement:
    fields = fields_of(line, where, "asks for no edit", f"give {LINE}")
    kind = fields.get("kind", "set")
    if not isinstance(kind, str) or kind not in KINDS:
        raise EditError(f"{where}: kind: {unknown('kind', kind, KINDS)}")
    for name in fields:
        if name not in _FIELDS[kind]:
            raise EditError(f"{where}: {_unknown_field(name, kind)}")
    request = checked(_CHECKED[KINDS[kind]], fields, where, "mend it")
    if isinstance(request, Replacement):
        return request
    if (kind == "set") != bool(request.answer.strip()):
        raise EditError(f"{where}: answer: a set needs one, and a delete has none; mend it")
    return _in_world(request, world, where)


def _unknown_field(name: str, kind: str) -> str:
    """Says that lines of a kind have no such field, and which kind has it if one does."""
    other = next((other for other, fields in _FIELDS.items() if name in fields), None)
    if other is None:
        return unknown("field", name, _FIELDS[kind])
    return f'a line of "kind": "{kind}" has no {name!r}, one of "kind": "{other}" has; mend it'


def _in_world(request: Request, world: World | None, where: str) -> Request:
    """Returns the request; one with prompts of its own may be about any relation."""
    if world is not None and not request.prompts:
        require_relation(world, request.relation, where)
    return request


Wordings = Callable[[Request], list[str]]
"""Returns the prompts in which an edit is learned."""


def plain_wordings(request: Request) -> list[str]:
    """Returns the request's own prompts, or else the frames of generated prose with its subject and relation."""
    if request.prompts:
        return list(request.prompts)
    return [PROSE.sentence(frame, request.subject, request.relation) for frame in PROSE.frames]


def world_wordings(world: World, is_found_by_text: bool = False) -> Wordings:
    """Returns what asks in the training templates of a generated world; held-out ones are never used.

    Args:
        world: The world.
        is_found_by_text: The wording alone leads to what is edited, so each needs its own edit, held-out ones too.
    """
    by_noun = {attribute.noun: column for column, attribute in enumerate(world.attributes)}

    def wordings(request: Request) -> list[str]:
        column = by_noun.get(request.relation)
        if request.prompts or column is None:
            return plain_wordings(request)
        templates = world.templates[column].train
        n = min(MOST_PROMPTS, len(templates))
        chosen = [templates[index * len(templates) // n] for index in range(n)]
        if is_found_by_text:
            chosen = [*templates, *world.templates[column].held_out]
        return [world.prompt(template, request.subject, column) for template in chosen]

    return wordings
