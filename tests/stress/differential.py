"""Generated tables and calls, on PostgreSQL, on SQLite, and on a model in plain Python."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from aioupsert import (
    DEFAULT,
    Action,
    Excluded,
    Expression,
    F,
    coalesce,
    create_or_update,
    get_or_create,
    greatest,
    least,
    length,
    lower,
    upper,
)
from tests.support.databases import Database, open_postgresql, open_sqlite
from tests.support.model import Model, Row, Upsert, Value, given_values, literal
from tests.support.violations import INTEGRITY


@dataclass(frozen=True)
class Table:
    """A table with a key, a number and two texts; their defaults, or None."""

    n: int | None
    s: str | None
    required: bool

    def sql(self, name: str) -> str:
        """The statement that makes it."""
        n = "NULL" if self.n is None else self.n
        s = "NULL" if self.s is None else f"'{self.s}'"
        null = "NOT NULL" if self.required else ""
        return (
            f"CREATE TABLE {name} (k integer PRIMARY KEY, n integer {null} DEFAULT {n},"
            f" s text DEFAULT {s}, u text)"
        )

    def defaults(self) -> Row:
        """The row that brings nothing."""
        return {"n": self.n, "s": self.s, "u": None}

    def allows(self, row: Row) -> bool:
        """Whether its constraints are met."""
        return not self.required or row["n"] is not None


class Call(NamedTuple):
    """The arguments of a call."""

    key: int
    only_get: bool
    defaults: Mapping[str, Value]
    create_defaults: Mapping[str, Value] = MappingProxyType({})
    touch: Mapping[str, Value] = MappingProxyType({})
    where: Value | None = None
    skip_unchanged: bool = False

    async def make(self, conn: Any, table: str) -> Any:
        """Call the library."""
        if self.only_get:
            return await get_or_create(
                conn,
                table,
                key={"k": self.key},
                defaults=given_values(self.defaults),
                returning="*",
            )
        return await create_or_update(
            conn,
            table,
            key={"k": self.key},
            defaults=given_values(self.defaults),
            create_defaults=given_values(self.create_defaults),
            touch=given_values(self.touch),
            where=None if self.where is None else self.where.given,
            skip_unchanged=self.skip_unchanged,
            returning="*",
        )

    def upsert(self) -> Upsert:
        """What it means."""
        if self.only_get:
            return Upsert(self.defaults, {})
        return Upsert(
            {**self.defaults, **self.touch, **self.create_defaults},
            self.defaults,
            self.touch,
            self.where,
            self.skip_unchanged,
        )

    def incoming(self) -> Row:
        """What it brings for another column to take."""
        return {
            name: value.given
            for name, value in self.defaults.items()
            if not isinstance(value.given, Expression)
        }


# --- What is generated ----------------------------------------------------------------


def of_two(op: Callable[[Any, Any], Any], one: Value, other: Value) -> Value:
    """An operator that gives NULL for NULL."""

    def meaning(row: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        a, b = one.meaning(row, new), other.meaning(row, new)
        return None if a is None or b is None else op(a, b)

    return Value(op(one.given, other.given), meaning)


def of_some(function: Any, choose: Callable[[list[Any]], Any], *some: Value) -> Value:
    """A function that looks past NULL."""

    def meaning(row: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        found = [value.meaning(row, new) for value in some]
        known = [value for value in found if value is not None]
        return choose(known) if known else None

    return Value(function(*(value.given for value in some)), meaning)


def of_one(function: Any, op: Callable[[Any], Any], value: Value) -> Value:
    def meaning(row: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        found = value.meaning(row, new)
        return None if found is None else op(found)

    return Value(function(value.given), meaning)


def stored(name: str) -> Value:
    return Value(F(name), lambda row, _: row[name])


def both(one: Value, other: Value) -> Value:
    """AND, of three values."""

    def meaning(row: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        found = {one.meaning(row, new), other.meaning(row, new)}
        return False if False in found else (None if None in found else True)

    return Value(one.given & other.given, meaning)


def contrary(value: Value) -> Value:
    return of_one(operator.invert, operator.not_, value)


INTEGERS: Final = st.sampled_from([-2, 0, 1, 3, 7])
WORDS: Final = st.sampled_from(["", "a", "B", "ab C", "'\\;"])
NUMBERS: Final = st.recursive(
    st.builds(literal, INTEGERS) | st.just(stored("n")),
    lambda some: st.one_of(
        st.builds(of_two, st.sampled_from([operator.add, operator.sub]), some, some),
        st.builds(of_some, st.just(greatest), st.just(max), some, some),
        st.builds(of_some, st.just(least), st.just(min), some, some),
        st.builds(of_some, st.just(coalesce), st.just(lambda k: k[0]), some, some),
    ),
    max_leaves=4,
).filter(lambda value: isinstance(value.given, Expression))
TEXTS: Final = st.one_of(
    st.builds(of_one, st.just(lower), st.just(str.lower), st.just(stored("s"))),
    st.builds(of_one, st.just(upper), st.just(str.upper), st.just(stored("u"))),
    st.builds(
        of_some,
        st.just(coalesce),
        st.just(lambda k: k[0]),
        st.just(stored("u")),
        st.builds(literal, WORDS),
    ),
)
ANY: Final = {
    "n": st.builds(literal, st.none() | INTEGERS) | NUMBERS | st.just(literal(DEFAULT)),
    "s": st.builds(literal, st.none() | WORDS) | TEXTS | st.just(literal(DEFAULT)),
    "u": st.builds(literal, st.none() | WORDS) | TEXTS,
}
CONDITIONS: Final = st.recursive(
    st.one_of(
        st.builds(of_two, st.just(operator.lt), st.just(stored("n")), NUMBERS),
        st.builds(
            of_two,
            st.just(operator.eq),
            st.just(stored("s")),
            st.builds(literal, WORDS),
        ),
        st.builds(
            of_two,
            st.just(operator.gt),
            st.builds(of_one, st.just(length), st.just(len), st.just(stored("u"))),
            st.builds(literal, INTEGERS),
        ),
    ),
    lambda some: st.builds(both, some, some) | st.builds(contrary, some),
    max_leaves=3,
)


@st.composite
def calls(draw: st.DrawFn) -> Call:
    names = draw(st.sets(st.sampled_from("nsu")))
    touched = draw(st.sets(st.sampled_from("nsu"))) - names
    defaults = {name: draw(ANY[name]) for name in sorted(names)}
    created = draw(st.sets(st.sampled_from("nsu")))
    if {"n", "u"} <= names and not created and draw(st.booleans()):
        # The other column takes what this one brings.
        defaults["n"] = draw(st.builds(literal, INTEGERS))
        defaults["s"] = draw(st.builds(literal, WORDS))
        defaults["u"] = Value(Excluded("s"), lambda _, new: new.get("s"))
        touched -= {"s"}
    key = draw(st.integers(0, 2))
    if draw(st.integers(0, 4)) == 0:
        return Call(key, only_get=True, defaults=defaults)
    return Call(
        key,
        False,
        defaults,
        {name: draw(ANY[name]) for name in sorted(created)},
        {name: draw(ANY[name]) for name in sorted(touched)},
        draw(st.none() | CONDITIONS),
        draw(st.booleans()),
    )


TABLES: Final = st.builds(
    Table, st.sampled_from([None, 0, 5]), st.sampled_from([None, "Dd"]), st.booleans()
)


# --- The comparison -------------------------------------------------------------------


async def compare(
    databases: list[Database], name: str, table: Table, some: list[Call]
) -> None:
    """Make the calls everywhere; everything must be the same."""
    model = Model(table.defaults(), table.allows)
    for database in databases:
        await database.run(table.sql(name))
    for call in some:
        done = model.write(call.key, call.upsert(), call.incoming())
        expected = done and (done[0], {"k": call.key, **done[1]})
        for database in databases:
            found: Any = None
            try:
                result = await call.make(database.handle, name)
            except INTEGRITY:
                pass
            else:
                found = result.action, result.row
                written = result.action in {Action.CREATED, Action.UPDATED}
                assert result.rows_affected == written
            assert found == expected, (
                f"{database.engine}: {found}, not {expected}: {table}, {call}"
            )
    rows = sorted((key, *row.values()) for key, row in model.rows.items())
    for database in databases:
        assert sorted(await database.query(f"SELECT k, n, s, u FROM {name}")) == rows
        await database.run(f"DROP TABLE {name}")


def differ(dsn: str, cases: int, start: int) -> tuple[str, bool]:
    """Generate so many cases; the first that differs is made small, and told."""
    made = 0
    with asyncio.Runner() as runner, TemporaryDirectory() as folder:
        contexts = [
            open_postgresql(dsn, "asyncpg"),
            open_sqlite(Path(folder) / "t.db"),
        ]
        databases = [runner.run(context.__aenter__()) for context in contexts]

        @seed(start)
        @settings(
            max_examples=cases,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
        )
        @given(TABLES, st.lists(calls(), min_size=1, max_size=8))
        def check(table: Table, some: list[Call]) -> None:
            nonlocal made
            made += len(some)
            # Another name each time: a connection remembers a table's defaults.
            runner.run(compare(databases, f"t{made}", table, some))

        try:
            check()
        except AssertionError as exc:
            return f"differential: {exc}", False
        finally:
            for context in contexts:
                runner.run(context.__aexit__(None, None, None))
    return f"differential: {cases:,} cases, {made:,} calls, 0 differences", True
