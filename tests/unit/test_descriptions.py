"""What is remembered of a table, and for how long."""

import pytest

from aioupsert import UsageError, set_description_lifetime
from aioupsert._adapters.base import Known
from tests.unit.plans import table


def test_a_lifetime_is_not_negative() -> None:
    with pytest.raises(UsageError, match="zero or more seconds, not -1"):
        set_description_lifetime(-1)


def test_the_programs_of_a_table_do_not_fill_the_memory() -> None:
    known = Known(table(), 0)
    for number in range(2500):
        known.keep((number,), object())
    assert 0 < len(known.programs) <= 1000
    assert (2499,) in known.programs
