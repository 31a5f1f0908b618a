"""What a call reports."""

import copy
import dataclasses
import pickle

import pytest

from aioupsert import Action, Result, Statement
from aioupsert.results import results_of_rows

ROWS = ({"n": 1}, {"n": 2})


def test_actions_are_their_words() -> None:
    words = ["created", "updated", "unchanged", "skipped", "deleted"]
    assert list(Action) == words
    assert [str(action) for action in Action] == list(Action)
    assert f"{Action.CREATED}" == "created"
    assert Action("skipped") is Action.SKIPPED


@pytest.mark.parametrize("action", Action)
def test_only_a_created_row_was_created(action: Action) -> None:
    assert Result(action, 1).created is (action == "created")


def test_the_row_is_the_first_of_the_rows() -> None:
    assert Result(Action.UPDATED, 2, ROWS).row is ROWS[0]


def test_without_rows_there_is_no_row() -> None:
    result = Result(Action.UPDATED, 1)
    assert (result.row, result.rows) == (None, ())


@pytest.mark.parametrize(
    ("result", "unpacked"),
    [
        (Result(Action.CREATED, 1, ROWS[:1]), ({"n": 1}, True)),
        (Result(Action.UNCHANGED, 0, ROWS[:1]), ({"n": 1}, False)),
        (Result(Action.SKIPPED, 0), (None, False)),
    ],
    ids=["created", "unchanged", "without rows"],
)
def test_a_result_unpacks_as_row_and_created(
    result: Result, unpacked: tuple[object, bool]
) -> None:
    row, created = result
    assert (row, created) == unpacked


def test_a_result_is_a_tuple_with_attributes() -> None:
    result = Result(Action.CREATED, 2, ROWS)
    assert (len(result), result[0], result[1]) == (2, ROWS[0], True)
    for copied in (copy.copy(result), pickle.loads(pickle.dumps(result))):  # noqa: S301  # made here
        assert (copied, copied.row) == (result, ROWS[0])
    assert dataclasses.replace(result, action=Action.UPDATED) == Result(
        Action.UPDATED, 2, ROWS
    )


def test_a_result_that_shares_its_attributes_is_as_any_other() -> None:
    attributes = {"action": Action.UPDATED, "rows_affected": 1}
    some = results_of_rows(ROWS, (False, False), (attributes, attributes))
    for result, row in zip(some, ROWS, strict=True):
        assert result == Result(Action.UPDATED, 1, (row,))
        assert repr(result) == repr(Result(Action.UPDATED, 1, (row,)))
        assert (result.rows, result.old, result.changed) == ((row,), None, ())
    copied = [copy.copy(some[0]), copy.deepcopy(some[0])]
    copied.append(pickle.loads(pickle.dumps(some[0])))  # noqa: S301  # made here
    assert [some[0]] * 3 == copied
    other = dataclasses.replace(some[0], action=Action.CREATED)
    assert (other.created, some[0].created, some[1].action) == (True, False, "updated")
    created = {**attributes, "action": Action.CREATED}
    assert [r.created for r in results_of_rows([{}], [True], [created])] == [True]


def test_equal_results_are_equal() -> None:
    assert Result(Action.CREATED, 1, ROWS) == Result(Action.CREATED, 1, tuple(ROWS))
    assert Result(Action.CREATED, 1) != Result(Action.UPDATED, 1)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [(Result(Action.CREATED, 1), "action"), (Statement("SELECT", (), ""), "sql")],
    ids=["Result", "Statement"],
)
def test_an_outcome_cannot_be_changed(outcome: object, name: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(outcome, name, "other")


def test_a_result_shows_itself() -> None:
    assert repr(Result(Action.CREATED, 1)) == (
        "Result(action=<Action.CREATED: 'created'>, rows_affected=1, rows=(),"
        " old=None, changed=())"
    )
