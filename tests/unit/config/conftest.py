"""One way to ask what is wrong with a text: `problems_of`."""

import pytest

from memlm.errors import ConfigError
from memlm.experiment.config import load_experiment


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Writes ``text`` as c.yaml (``base`` as base.yaml) into an empty folder and loads it from there."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes, *overrides: str, base: str | None = None):
        (tmp_path / "c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        if base is not None:
            (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
        return load_experiment("c.yaml", overrides)

    return load


@pytest.fixture
def problems_of(load):
    """Returns the lines of the error, without the indent; the head line is checked here for all tests."""

    def problems_of(text: str | bytes, *overrides: str, base: str | None = None) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, base=base)
        head, *lines = str(caught.value).split("\n")
        count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
        assert head == f"c.yaml: {count}, nothing was run"
        assert all(line.startswith("  ") for line in lines)
        return [line[2:] for line in lines]

    return problems_of
