"""Rows of vectors are edited; a bank of tokens is told apart, in one line."""

import pytest

from memlm.edit.rows import Rows
from memlm.errors import EditError
from tests.contract.test_wirings import BANKED, build


def test_a_bank_of_tokens_is_refused():
    with pytest.raises(EditError, match="or one of texts; give a run of a variant with a bank of vectors"):
        Rows(build(BANKED[1]).decoder)
