"""`Config`, the base of every configuration class, and the field types they share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from memlm.registry import Registry, nearest, unknown


class Config(BaseModel):
    """A frozen configuration that refuses unknown fields.

    The text under a field is its help. Checks across fields go into `problems`. Nothing is ever rewritten: a value
    that cannot take effect is a problem.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def problems(self) -> Iterator[tuple[str | tuple[str, ...], str]]:
        """Yields (field, reason) for what no field can see alone; called once the fields are sound.

        A field further down is a dotted path, or its keys one by one where one of them is a name of the user's.
        """
        return iter(())

    def changes(self, name: str) -> bool:
        """Returns whether a field was given a value other than its default, so that it matters if it has no effect."""
        return getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and kinds & {int, float}:
            raise problem("must be a number, not true or false")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            config = handler(data)
        except ValidationError as error:
            raise ValidationError.from_exception_data(
                cls.__name__, [_explained(cls, dict(item)) for item in error.errors()]
            ) from None
        paths = [
            (tuple(field.split(".")) if isinstance(field, str) else field, reason)
            for field, reason in config.problems()
        ]
        found = [
            InitErrorDetails(type=problem(reason), loc=path, input=_value_at(config, path)) for path, reason in paths
        ]
        if found:
            raise ValidationError.from_exception_data(cls.__name__, found)
        return config


def problem(reason: str) -> PydanticCustomError:
    """Returns the error that carries ``reason`` to the user word for word."""
    return PydanticCustomError("problem", "{reason}", {"reason": reason})


def either(reason: str) -> WrapValidator:
    """Returns the validator that answers for a union as a whole: what fits none of its types gets this one reason."""

    def resolve(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise problem(reason) from None

    return WrapValidator(resolve)


def _value_at(config: Config, path: tuple[str, ...]) -> object:
    node: object = config
    for key in path:
        if isinstance(node, list):
            node = cast("list[object]", node)[int(key)]
        elif isinstance(node, dict):
            node = cast("dict[str, object]", node)[key]
        else:
            node = getattr(node, key, None)
    return node


def _kinds(annotation: Any) -> set[Any]:
    """Returns the types that a union joins, or the one type that is no union."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return {kind for arm in get_args(annotation) for kind in _kinds(arm)}
    return {annotation} if isinstance(annotation, type) else set()


def _explained(cls: type[Config], item: dict[str, Any]) -> InitErrorDetails:
    loc, reason = item["loc"], str(item["msg"])
    if item["type"] == "extra_forbidden" and len(loc) == 1:
        guess = nearest(str(loc[0]), cls.model_fields)
        hint = f" Did you mean '{guess}'?" if guess else f" Known: {', '.join(cls.model_fields)}."
        reason = f"{cls.model_config.get('title') or cls.__name__} has no such field.{hint}"
    elif item["type"] == "missing":
        reason = "is required"
    elif item["type"] == "literal_error" and all(isinstance(key, int) for key in loc[1:]):
        annotation = cls.model_fields[str(loc[0])].annotation
        reason = unknown("value", item["input"], _literals(annotation))
    elif item["type"] == "model_type":
        reason = "must be a mapping of fields"
    return InitErrorDetails(type=problem(reason), loc=loc, input=item["input"])


def _literals(annotation: Any) -> list[str]:
    """Returns the strings that a ``Literal`` (possibly ``| None``) allows."""
    args = get_args(annotation)
    return [arg for arg in args if isinstance(arg, str)] + [name for arg in args for name in _literals(arg)]


_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def _parse_count(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d[\d_]{0,20}(?:\.\d{1,20})?)\s*([kKmMgGbB]?)\s*", value)
    if match is None:
        raise problem("must be a whole number, with k, M or G if you like (400k)")
    number = Fraction(match[1].replace("_", "")) * _SUFFIX[match[2].lower()]
    if number.denominator != 1:
        raise problem("must be a whole number")
    return int(number)


Count = Annotated[int, BeforeValidator(_parse_count), Field(le=10**15)]
"""A whole number that may be written 400k, 1.5M or 2G (powers of ten)."""


def choice(registry: Registry[Any]) -> BeforeValidator:
    """Returns the validator of a mapping whose ``type`` names an entry of ``registry``.

    The entry's module is imported when its name is first used, so this module needs no knowledge of any of them.
    """

    def resolve(value: object) -> object:
        if value is None or isinstance(value, Config):
            return value
        if not isinstance(value, dict):
            raise problem(f"must be a mapping with a type, such as {{type: {registry.names()[0]}}}")
        if "type" not in value:
            raise problem(f"needs a type. Known: {', '.join(registry.names())}.")
        name = cast("dict[str, object]", value)["type"]
        if not isinstance(name, str):
            raise _at("type", f"must be a name. Known: {', '.join(registry.names())}.", name)
        try:
            cls = registry.get(name)
        except KeyError as error:
            raise _at("type", str(error.args[0]), name) from None
        return cls.model_validate(value)

    return BeforeValidator(resolve)


def _at(field: str, reason: str, value: object) -> ValidationError:
    return ValidationError.from_exception_data(
        "type", [InitErrorDetails(type=problem(reason), loc=(field,), input=value)]
    )
