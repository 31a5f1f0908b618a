"""The classic steps of PostgreSQL, answered as a server might."""

from types import SimpleNamespace
from typing import Any

import pytest

from aioupsert import Action, F, NotAppliedError, SerializationConflictError
from aioupsert._engines.commands import Command
from aioupsert._engines.outcomes import MAX_LOST_RACES, LostRace, race_error
from aioupsert._engines.postgresql.compiler import compile_call
from aioupsert._execution.calls import _Retries
from aioupsert._plan import Plan
from aioupsert._plan.schema import UniqueIndex
from tests.unit.plans import column, plan, table

VALUES = [1, 2, 3]


class ServerError(Exception):
    """An error with a SQLSTATE."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


def made(**call: Any) -> Plan:
    relation = table(column("hits", type="pg_catalog.int4"), **call.pop("table", {}))
    return plan(relation, **{"defaults": {"hits": 2}, "strategy": "exact", **call})


def outcome(made: Plan, lost: int, *answers: Any) -> Any:
    """Make an attempt; each answer is the rows of a command, or its error."""
    steps = compile_call(made).attempt(VALUES, lost)
    next(steps)
    try:
        for answer in answers:
            if isinstance(answer, Exception):
                steps.throw(answer)
            else:
                steps.send(answer)
    except StopIteration as stop:
        return stop.value
    raise AssertionError


OUTSIDE: Any = ()
INSIDE: Any = ((True,),)
DONE: Any = [("COMMIT",)]
CONFLICT = ServerError("23505")
WHERE: Any = {"where": F("hits") < 5}


def test_a_row_that_is_locked_is_updated() -> None:
    result = outcome(made(), 2, OUTSIDE, [], [(1,)], [(2,)], DONE)
    assert result.action is Action.UPDATED


def test_one_that_is_locked_may_be_left() -> None:
    result = outcome(made(**WHERE), 2, OUTSIDE, [], [(1,)], [], [(4,)], DONE)
    assert result.action is Action.SKIPPED


@pytest.mark.parametrize(("call", "found"), [({}, []), (WHERE, [[(2,)]])])
def test_one_that_is_locked_and_is_not_updated_is_refused(
    call: Any, found: list[Any]
) -> None:
    with pytest.raises(NotAppliedError):
        outcome(made(**call), 2, OUTSIDE, [], [(1,)], [], *found, [])


def test_one_that_is_gone_when_it_is_to_be_locked_is_created() -> None:
    result = outcome(made(), 2, OUTSIDE, [], [], DONE, [(1,)])
    assert result.action is Action.CREATED
    result = outcome(made(**WHERE), 2, OUTSIDE, [], [], DONE, [], [(1,)])
    assert result.action is Action.CREATED


def test_one_that_can_be_seen_and_not_locked_is_refused_in_the_end() -> None:
    secured = made(**WHERE, table={"row_security": True})
    again = outcome(secured, 2, OUTSIDE, [], [], DONE, [(2,)])
    assert again == LostRace(visible=True)
    with pytest.raises(NotAppliedError):
        outcome(secured, 3, OUTSIDE, [], [], DONE, [(2,)])


def in_snapshot(*answers: Any) -> Any:
    """The second attempt in a transaction whose snapshot is fixed."""
    lost = [[], [], CONFLICT, [], [("repeatable read", False, False)]]
    return outcome(made(), 1, INSIDE, *lost, *answers)


def test_a_conflict_in_a_snapshot_is_one_that_stays_or_a_race() -> None:
    # SAVEPOINT, the insert again, and perhaps the probe.
    with pytest.raises(ServerError, match="23505"):
        in_snapshot([], [], [("repeatable read", False, False)], [])
    with pytest.raises(SerializationConflictError):
        in_snapshot([], ServerError("40001"), [])
    with pytest.raises(SerializationConflictError):
        in_snapshot([], [], [("repeatable read", True, False)], [])
    with pytest.raises(ServerError, match="42501"):
        in_snapshot([], ServerError("42501"), [])
    assert in_snapshot([], [(1,)], []).action is Action.CREATED


class ViolationError(ServerError):
    """One whose detail names the key in the way, as asyncpg has it."""

    def __init__(self, detail: str | None) -> None:
        super().__init__("23505")
        self.constraint_name = "t_pkey"
        self.detail = detail


class DiagnosedError(ServerError):
    """The same as psycopg has it."""

    def __init__(self, detail: str | None) -> None:
        super().__init__("23505")
        self.diag = SimpleNamespace(constraint_name="t_pkey", message_detail=detail)


@pytest.mark.parametrize("violation", [ViolationError, DiagnosedError])
def test_a_row_with_the_very_key_in_the_way_is_a_race(violation: Any) -> None:
    moved = {"may_store_others": True, "unique": (UniqueIndex("t_pkey", ("id",)),)}
    seen: Any = [[], [("read committed", False, False)]]
    looks: Any = [[(True, False, "1")]] * 5
    race = violation("Key (id)=(1) already exists.")
    answers = [INSIDE, [], [], race, *seen, *looks]
    assert outcome(made(table=moved), 1, *answers) == LostRace(race)
    for detail in ("Key (id)=(7) already exists.", None):
        answers[3] = violation(detail)
        with pytest.raises(ServerError, match="23505"):
            outcome(made(table=moved), 1, *answers)


def test_where_an_insert_cannot_ignore_conflicts_one_in_a_snapshot_is_a_race() -> None:
    ruled = made(table={"supports_do_nothing": False})
    found = [[("repeatable read", False, False)]]
    with pytest.raises(SerializationConflictError):
        outcome(ruled, 1, INSIDE, [], [], CONFLICT, [], *found)


def test_a_row_that_can_be_seen_in_the_end_is_a_race() -> None:
    ruled = made(table={"supports_do_nothing": False, "may_store_others": True})
    found = [[("read committed", True, False)]]
    lost = outcome(ruled, 1, OUTSIDE, [], CONFLICT, *found)
    assert lost == LostRace(CONFLICT, visible=True)


def test_one_of_many_that_loses_every_race_fails_in_the_end() -> None:
    steps = compile_call(made(strategy="auto")).write(VALUES)
    sent = [next(steps)]

    def answer(command: Command) -> Any:
        if command.sql.startswith("INSERT"):
            return steps.throw(CONFLICT)
        if "transaction_isolation" in command.sql:
            return steps.send([("read committed", False, False)])
        return steps.send([])

    with pytest.raises(ServerError, match="23505"):
        while True:
            sent.append(answer(sent[-1]))
    inserts = [command for command in sent if command.sql.startswith("INSERT")]
    # The first attempt is a single statement.
    assert len(inserts) == MAX_LOST_RACES - 1


def test_a_race_that_is_lost_for_good_has_the_error_of_the_insert() -> None:
    name = made().table.name
    assert race_error(name, LostRace(CONFLICT)) is CONFLICT
    refused = race_error(name, LostRace(CONFLICT, visible=True))
    assert isinstance(refused, NotAppliedError)
    assert refused.__cause__ is CONFLICT
    assert isinstance(race_error(name, LostRace()), NotAppliedError)


async def test_a_call_that_has_lost_too_many_races_fails() -> None:
    retries = _Retries(made().table.name, None, 0.0)
    retries.attempts = MAX_LOST_RACES - 1
    with pytest.raises(ServerError, match="23505"):
        await retries.follow_lost_race(LostRace(CONFLICT))
