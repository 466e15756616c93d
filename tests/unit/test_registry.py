"""The registry: names without imports, classes on demand, and an error text for everything that can go wrong."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Literal

import pytest
from pydantic import BaseModel

from memlm import registry
from memlm.registry import FUSIONS, MEMORIES, Registry, nearest, unknown


class Good(BaseModel):
    type: Literal["good"]


class Rival(BaseModel):
    type: Literal["good"]


class Two(BaseModel):
    type: Literal["one", "two"]


class Number(BaseModel):
    type: Literal[1]


class Text(BaseModel):
    type: str


class Bare(BaseModel):
    pass


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A registry over a package of its own, with a sound type, one that registers nothing, and a base."""
    package = tmp_path / "things_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "base.py").write_text("raise RuntimeError('nobody imports this')", encoding="utf-8")
    (package / "empty.py").write_text("", encoding="utf-8")
    (package / "wood.py").write_text(
        "from typing import Literal\nfrom pydantic import BaseModel\n"
        "class Wood(BaseModel):\n    type: Literal['wood']\n    size: int = 3\n"
        "import builtins\nbuiltins.things_of_test.register(Wood)\n",
        encoding="utf-8",
    )
    found = Registry("thing", "things_of_test")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("builtins.things_of_test", found, raising=False)
    yield found
    for name in [name for name in sys.modules if name.startswith("things_of_test")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("gate_mlp", "gated_mlp"),
        ("weight_sum", "weighted_sum"),
        ("xyzzy", None),
        ("", None),
        ("gated_mlp", "gated_mlp"),
    ],
)
def test_the_nearest_name(name, guess):
    assert nearest(name, ["weighted_sum", "gated_mlp"]) == guess


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wod", "unknown thing 'wod'. Did you mean 'wood'? Known: stone, wood."),
        ("xyzzy", "unknown thing 'xyzzy'. Known: stone, wood."),
        (3, "unknown thing '3'. Known: stone, wood."),
        (None, "unknown thing 'None'. Did you mean 'stone'? Known: stone, wood."),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_and_all(name, text):
    assert unknown("thing", name, ["wood", "stone"]) == text


def test_names_are_the_modules_and_are_found_without_importing_them(things):
    assert things.names() == ["empty", "wood"]
    assert not any(name.startswith("things_of_test.") for name in sys.modules)


def test_a_class_is_imported_when_it_is_asked_for(things):
    assert things.get("wood")(type="wood").size == 3
    assert "things_of_test.base" not in sys.modules
    assert things.get("wood") is things.get("wood")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("wod", "unknown thing 'wod'. Did you mean 'wood'? Known: empty, wood."),
        ("base", "unknown thing 'base'. Known: empty, wood."),
        (["wood"], "unknown thing \"['wood']\". Did you mean 'wood'? Known: empty, wood."),
        ("empty", "things_of_test.empty registers no thing of type 'empty'"),
    ],
)
def test_a_name_that_leads_nowhere(things, name, text):
    with pytest.raises(KeyError) as caught:
        things.get(name)
    assert caught.value.args == (text,)


def test_a_registered_class_needs_no_module(things):
    assert things.register(Good) is Good
    assert things.names() == ["empty", "good", "wood"] and things.get("good") is Good
    assert things.register(Good) is Good  # a module that is reloaded registers its class again


def test_a_name_is_given_once(things):
    things.register(Good)
    with pytest.raises(ValueError, match="thing 'good'") as caught:
        things.register(Rival)
    assert str(caught.value) == f"thing 'good' is already registered by {__name__}.Good"
    assert things.get("good") is Good


@pytest.mark.parametrize("cls", [Two, Number, Text, Bare, int])
def test_a_class_without_one_type_is_refused(things, cls):
    with pytest.raises(TypeError) as caught:
        things.register(cls)
    assert str(caught.value) == f"{cls.__qualname__} needs a field `type: Literal['name']` with exactly one name"
    assert things.names() == ["empty", "wood"]


def test_entry_points_of_other_distributions_join(things, tmp_path, monkeypatch):
    source = (tmp_path / "things_of_test" / "wood.py").read_text(encoding="utf-8").replace("wood", "glass")
    (tmp_path / "glass_of_test.py").write_text(source, encoding="utf-8")
    point = EntryPoint("glass", "glass_of_test", "things_of_test")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "things_of_test" else [])
    assert things.names() == ["empty", "glass", "wood"]
    assert things.get("glass")(type="glass").size == 3
    sys.modules.pop("glass_of_test")


@pytest.mark.parametrize("registered", [MEMORIES, FUSIONS], ids=["memories", "fusions"])
def test_every_built_in_type_registers_under_its_modules_name(registered):
    assert registered.names()
    for name in registered.names():
        cls = registered.get(name)
        assert cls.__module__ == f"{registered.package}.{name}"
        assert cls.__doc__ and all(info.description for key, info in cls.model_fields.items() if key != "type")


def test_listing_the_names_imports_no_torch():
    code = (
        "import sys; from memlm.registry import *; MEMORIES.names(), FUSIONS.names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
