"""Records that lack a setting are read with its default, so what the defaults are is held here.

A new setting is added to `defaults.json`: its default must do what was done before there was the setting. A default
that changes would be read into the records from before its setting, which were made with the old one.
"""

import json
from pathlib import Path
from typing import get_args

from pydantic_core import to_jsonable_python

from memlm.config.base import Config
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.settings import SECTIONS
from memlm.registry import BANKS, ENCODERS, FUSIONS, MEMORIES

CHANGED = "give records without it the old value (memlm.experiment.settings), and then mend defaults.json"


def configs(annotation):
    """Yields the configuration classes that an annotation names, and those of their fields."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
        for field in annotation.model_fields.values():
            yield from configs(field.annotation)
    for part in get_args(annotation):
        yield from configs(part)


def defaults():
    types = [registry.get(name) for registry in (MEMORIES, BANKS, ENCODERS, FUSIONS) for name in registry.names()]
    found = {}
    for root in (ExperimentConfig, *SECTIONS.values(), *types):
        for cls in configs(root):
            for name, field in cls.model_fields.items():
                if cls.__module__.startswith("memlm.") and not field.is_required():
                    default = field.get_default(call_default_factory=True)
                    found[f"{cls.__name__}.{name}"] = plain(default)
    return found


def plain(default):
    """Returns a default as JSON; of a configuration its class and what is not that class's default, held by itself."""
    if isinstance(default, Config):
        return {type(default).__name__: default.model_dump(mode="json", exclude_defaults=True)}
    return to_jsonable_python(default)


def test_the_default_of_every_setting_is_what_it_was():
    kept, now = json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8")), defaults()
    assert len(now) > 100
    changed = [name for name in kept.keys() & now.keys() if kept[name] != now[name]]
    assert not changed, f"{changed}: {CHANGED}"
    assert sorted(kept) == sorted(now), "settings came or went: mend defaults.json"
