from collections import Counter
from itertools import product

import pytest

from tests.support.combinations import OPTION, Value, parameters, selection

# As of three drivers and seven values.
CASES: list[list[Value]] = [
    [(("db",), (driver,)), (("value",), (value,))]
    for driver, value in product(range(3), range(7))
]


@pytest.fixture
def first() -> None:
    """A parameter of a test below."""


second = third = first


def test_every_value_is_run_and_few_combinations_are() -> None:
    chosen = selection(CASES, 1)
    assert {value for n in chosen for value in CASES[n]} == {
        value for case in CASES for value in case
    }
    assert len(chosen) == 7


def test_each_driver_has_its_share() -> None:
    drivers = [CASES[n][0] for n in selection(CASES, 1)]
    assert sorted(Counter(drivers).values()) == [2, 2, 3]


def test_the_selections_together_have_every_combination_once() -> None:
    chosen = [n for number in (1, 2, 3) for n in selection(CASES, number)]
    assert sorted(chosen) == [*range(len(CASES))]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_with_one_parameter_or_none_there_is_nothing_to_choose(number: int) -> None:
    alone: list[list[Value]] = [[(("value",), (value,))] for value in range(3)]
    assert selection(alone, number) == [0, 1, 2]
    assert selection([[]], number) == [0]


@pytest.mark.usefixtures("first", "second", "third")
@pytest.mark.parametrize("first", "ab", indirect=True)
@pytest.mark.parametrize(("second", "third"), [(1, 2), (3, 4)], indirect=True)
def test_what_is_listed_together_stays_together(request: pytest.FixtureRequest) -> None:
    assert {names for names, _ in parameters(request.node)} == {
        ("first",),
        ("second", "third"),
    }


def test_the_option_chooses(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getoption(OPTION)
