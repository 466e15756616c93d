"""Names, shapes, initial values and 20 losses of every wiring are those in the files.

They change by `pytest tests/golden --update-golden` and a line in the changelog, never by themselves.
"""

import json
from pathlib import Path

import pytest

from tests.golden.wirings import FOLDER, MODELS, digest, measured, path_of
from tests.tolerances import GOLDEN

UPDATE = "pytest tests/golden --update-golden"


@pytest.mark.parametrize("name", MODELS)
def test_a_wiring_is_what_it_was(name, tmp_path, request):
    path, now = path_of(name), measured(name, tmp_path)
    if request.config.getoption("update_golden"):
        path.write_text(json.dumps(now, indent=1) + "\n")
        return
    assert path.exists(), f"{path.name} is missing; make it with: {UPDATE}"
    kept = json.loads(path.read_text())
    assert list(now["parameters"]) == list(kept["parameters"])
    for key, was in kept["parameters"].items():
        found = now["parameters"][key]
        assert found["shape"] == was["shape"], key
        assert found["first"] == pytest.approx(was["first"], rel=GOLDEN), key
        # A mean is near zero by cancellation, so it is measured against the spread of what it averages.
        scale = abs(was["mean"]) + was["std"]
        assert found["mean"] == pytest.approx(was["mean"], abs=GOLDEN * scale), key
        assert found["std"] == pytest.approx(was["std"], abs=GOLDEN * scale), key
    assert len(kept["losses"]) == 20
    assert now["losses"] == pytest.approx(kept["losses"], rel=GOLDEN)


def test_every_file_belongs_to_a_wiring():
    assert {path.stem for path in FOLDER.glob("*.json")} - set(MODELS) == set(), "remove what no wiring uses"


def test_the_changelog_names_the_files_as_they_are(request):
    if request.config.getoption("update_golden"):
        pytest.skip("the files are being written")
    changelog = Path(__file__).parents[2] / "CHANGELOG.md"
    assert f"golden: {digest()}" in changelog.read_text(encoding="utf-8"), (
        f"the golden files changed; say why in CHANGELOG.md, with `golden: {digest()}`"
    )
