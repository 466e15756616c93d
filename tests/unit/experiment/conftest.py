import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from fabricate import fabricate


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fabricate(tmp_path)
