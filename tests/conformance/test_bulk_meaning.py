"""Bulk calls do what applying each row in order would do: a dict says what that is."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aioupsert import (
    Action,
    BulkResult,
    Excluded,
    F,
    coalesce,
    create_or_update,
    create_or_update_many,
    greatest,
    iter_create_or_update,
)
from aioupsert._steps import postgresql_bulk
from tests.support.databases import CONNECTIONS, Database, every_handle

# --- The model --------------------------------------------------------------------------

Row = Mapping[str, Any]

DEFAULTS: Final = {"a": 7, "b": None, "c": None, "stamp": 0}
COLUMNS: Final = ("k", "g", *DEFAULTS)


class Term(NamedTuple):
    """What an expression is, and what it means: of the stored row and the new one."""

    expression: Any
    value: Callable[[Row, Row], Any]
    takes: frozenset[str] = frozenset()


def plus(one: Any, two: Any) -> Any:
    return None if one is None or two is None else one + two


def first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def highest(*values: Any) -> Any:
    return max((value for value in values if value is not None), default=None)


def below(one: Any, two: Any) -> bool:
    return one is not None and two is not None and one < two


def plain(value: Any) -> Term:
    return Term(value, lambda _s, _r: value)


FIVE: Final = plain(5)
NULL: Final = plain(None)
NUMBERS: Final = (
    FIVE,
    NULL,
    Term(F("a") + 1, lambda s, _: plus(s["a"], 1)),
    Term(F("c"), lambda s, _: s["c"]),
    Term(Excluded("k"), lambda _, r: r["k"]),
    Term(coalesce(F("c"), Excluded("k")), lambda s, r: first(s["c"], r["k"])),
)
ADDED: Final = (
    Term(F("a") + Excluded("a"), lambda s, r: plus(s["a"], r["a"]), frozenset("a")),
    Term(Excluded("c"), lambda _, r: r["c"], frozenset("c")),
    Term(
        coalesce(Excluded("a"), F("a")),
        lambda s, r: first(r["a"], s["a"]),
        frozenset("a"),
    ),
    Term(
        greatest(F("c"), Excluded("a"), Excluded("c")),
        lambda s, r: highest(s["c"], r["a"], r["c"]),
        frozenset("ac"),
    ),
)
TEXTS: Final = (
    plain("x"),
    NULL,
    Term(F("b"), lambda s, _: s["b"]),
    Term(
        coalesce(F("b"), Excluded("b")),
        lambda s, r: first(s["b"], r["b"]),
        frozenset("b"),
    ),
    Term(Excluded("b"), lambda _, r: r["b"], frozenset("b")),
)
CONDITIONS: Final = (
    None,
    None,
    Term(F("a") < 8, lambda s, _: below(s["a"], 8)),
    Term(Excluded("k") > 1, lambda _, r: below(1, r["k"])),
    Term(F("b") == None, lambda s, _: s["b"] is None),  # noqa: E711  # SQL's IS NULL
    Term(F("c") < Excluded("k"), lambda s, r: below(s["c"], r["k"])),
)


@dataclass
class Call:
    """The arguments of a call."""

    key: Sequence[str] = ("k",)
    update: Sequence[str] | Mapping[str, Term] | None = None
    create_defaults: Mapping[str, Term] = field(default_factory=dict)
    where: Term | None = None
    skip_unchanged: bool = False
    touch: Mapping[str, Term] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Give them as the library takes them."""
        update: Any = self.update
        if isinstance(update, Mapping):
            update = expressions(update)
        return {
            "key": self.key,
            "update": update,
            "create_defaults": expressions(self.create_defaults),
            "where": None if self.where is None else self.where.expression,
            "skip_unchanged": self.skip_unchanged,
            "touch": expressions(self.touch),
            "without_unique_index": "allow",
        }


def counted(actions: Counter[Action]) -> BulkResult:
    return BulkResult(
        created=actions[Action.CREATED],
        updated=actions[Action.UPDATED],
        unchanged=actions[Action.UNCHANGED],
        skipped=actions[Action.SKIPPED],
    )


def expressions(terms: Mapping[str, Term]) -> dict[str, Any]:
    return {name: term.expression for name, term in terms.items()}


class Model:
    """The table as a dict; `apply` is what one row does."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}

    def apply(self, call: Call, row: Row) -> Action:
        key = tuple(row[name] for name in call.key)
        if key not in self.rows:
            added = {**call.touch, **call.create_defaults}
            values = {n: term.value(DEFAULTS, row) for n, term in added.items()}
            self.rows[key] = {"g": None, **DEFAULTS, **row, **values}
            return Action.CREATED
        stored = self.rows[key]
        if call.where is not None and not call.where.value(stored, row):
            return Action.SKIPPED
        new = self.assigned(call, stored, row)
        if not new:
            return Action.UNCHANGED
        careful = call.skip_unchanged or call.touch
        if careful and all(stored[name] == value for name, value in new.items()):
            return Action.UNCHANGED
        new |= {name: term.value(stored, row) for name, term in call.touch.items()}
        stored.update(new)
        return Action.UPDATED

    @staticmethod
    def assigned(call: Call, stored: Row, row: Row) -> dict[str, Any]:
        if isinstance(call.update, Mapping):
            return {
                name: term.value(stored, row)
                for name, term in call.update.items()
                if term.takes <= row.keys()
            }
        names = row.keys() - set(call.key) if call.update is None else call.update
        return {name: row[name] for name in names if name in row}

    def apply_all(self, call: Call, rows: Sequence[Row]) -> BulkResult:
        return counted(Counter(self.apply(call, row) for row in rows))

    def content(self) -> list[tuple[Any, ...]]:
        rows = [tuple(row[name] for name in COLUMNS) for row in self.rows.values()]
        return sorted(rows, key=repr)


# --- Tables, calls and rows -------------------------------------------------------------

BODY: Final = (
    "k integer, g integer, a integer DEFAULT 7, b text, c integer,"
    " stamp integer DEFAULT 0"
)
TRIGGER: Final = (
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN new; END $$;"
    " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g();"
)
# A table of each kind is written in another way; two columns of key where g is unique.
TABLES: Final[dict[str, dict[str, str]]] = {
    "unique": dict.fromkeys(
        ("postgresql", "sqlite"), f"CREATE TABLE t ({BODY}, UNIQUE (k))"
    ),
    "two columns": dict.fromkeys(
        ("postgresql", "sqlite"), f"CREATE TABLE t ({BODY}, UNIQUE (g, k))"
    ),
    "no unique index": dict.fromkeys(
        ("postgresql", "sqlite"), f"CREATE TABLE t ({BODY})"
    ),
    "numbered": {
        "postgresql": f"CREATE TABLE t (id serial, {BODY}, UNIQUE (k))",
        "sqlite": (
            f"CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, {BODY}, UNIQUE (k))"
        ),
    },
    "trigger": {
        "postgresql": f"CREATE TABLE t ({BODY}, UNIQUE (k)); {TRIGGER}",
        "sqlite": (
            f"CREATE TABLE t ({BODY}, UNIQUE (k)); CREATE TRIGGER g BEFORE INSERT ON t"
            " BEGIN SELECT 1; END"
        ),
    },
    "partitions": {
        "postgresql": (
            f"CREATE TABLE t ({BODY}, UNIQUE (k)) PARTITION BY HASH (k);"
            "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
        ),
        "sqlite": f"CREATE TABLE t ({BODY}, UNIQUE (k), UNIQUE (b, a, c, stamp, k))",
    },
}

numbers = st.none() | st.integers(0, 3)
keys = st.integers(0, 3) | st.integers(0, 3) | numbers
texts = st.sampled_from([None, "x", "y", ""])
number_terms = st.sampled_from([*NUMBERS, *ADDED])
all_terms = {
    "a": number_terms,
    "b": st.sampled_from(TEXTS),
    "c": number_terms,
}
updates: st.SearchStrategy[Any] = (
    st.none()
    | st.lists(st.sampled_from("abc"), unique=True)
    | st.fixed_dictionaries({}, optional=all_terms)
)
# Only what every row has can be taken: the key.
created = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from(NUMBERS), "b": st.sampled_from(TEXTS[:3])}
)
touched = st.fixed_dictionaries({}, optional={"stamp": st.sampled_from(NUMBERS)})
calls = st.builds(
    Call,
    update=updates,
    create_defaults=created,
    where=st.sampled_from(CONDITIONS),
    skip_unchanged=st.booleans(),
    touch=touched,
)
given_columns = {"a": numbers, "b": texts, "c": numbers}
one_key = st.fixed_dictionaries({"k": keys}, optional=given_columns)
two_keys = st.fixed_dictionaries({"k": keys, "g": keys}, optional=given_columns)
sizes = st.sampled_from([None, None, 1, 2, 3, 7])

in_bulk = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    # Each example empties the table.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
# SQLite has no COPY.
ways = pytest.mark.parametrize(
    ("db", "way"),
    [
        *((kind, "at once") for kind in CONNECTIONS),
        *((kind, "copied") for kind in CONNECTIONS if kind != "aiosqlite"),
    ],
    indirect=True,
)
tables = pytest.mark.parametrize("table", TABLES)
SQL: Final = f"SELECT {', '.join(COLUMNS)} FROM t"


@pytest.fixture
async def made(db: Database, table: str) -> str:
    await db.run(TABLES[table][db.engine])
    return table


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few rows are copied, so that small examples show what is wrong.
    if request.param == "copied":
        monkeypatch.setattr(postgresql_bulk, "_MAX_ARRAYS", 3)


async def content(db: Database) -> list[tuple[Any, ...]]:
    return sorted(await db.query(SQL), key=repr)


# --- Any rows, any arguments ------------------------------------------------------------


@ways
@tables
@pytest.mark.usefixtures("way")
@in_bulk
@given(data=st.data(), call=calls, size=sizes, atomic=st.booleans())
async def test_many_rows_do_what_each_in_order_would_do(
    db: Database, made: str, *, data: Any, call: Call, size: int | None, atomic: bool
) -> None:
    rows_of, call.key = (
        (two_keys, ["g", "k"]) if made == "two columns" else (one_key, ["k"])
    )
    batches = data.draw(st.lists(st.lists(rows_of, max_size=12), max_size=3))
    await db.run("DELETE FROM t")
    model = Model()
    for rows in batches:
        result = await create_or_update_many(
            db.handle, "t", rows, batch_size=size, atomic=atomic, **call.options()
        )
        assert result == model.apply_all(call, rows)
        assert await content(db) == model.content()


@ways
@tables
@pytest.mark.usefixtures("way")
@in_bulk
@given(data=st.data(), call=calls, size=sizes, everything=st.booleans())
async def test_each_rows_result_is_that_of_its_turn(
    db: Database,
    made: str,
    *,
    data: Any,
    call: Call,
    size: int | None,
    everything: bool,
) -> None:
    rows_of, call.key = (
        (two_keys, ["g", "k"]) if made == "two columns" else (one_key, ["k"])
    )
    rows = data.draw(st.lists(rows_of, max_size=15))
    await db.run("DELETE FROM t")
    model, expected = Model(), []
    for row in rows:
        action = model.apply(call, row)
        key = tuple(row[name] for name in call.key)
        written = action in {Action.CREATED, Action.UPDATED}
        expected.append((action, int(written), dict(model.rows[key])))
    results = []
    async for result in iter_create_or_update(
        db.handle,
        "t",
        rows,
        batch_size=size,
        returning="*" if everything else COLUMNS,
        **call.options(),
    ):
        assert result.row is not None
        there = {name: result.row[name] for name in COLUMNS}
        results.append((result.action, result.rows_affected, there))
    assert results == expected
    assert await content(db) == model.content()


@engines
@tables
@in_bulk
@pytest.mark.usefixtures("made")
@given(
    rows=st.lists(one_key, max_size=12),
    update=st.none() | st.lists(st.sampled_from("abc"), unique=True),
    create_defaults=created,
    touch=touched,
    skip=st.booleans(),
)
async def test_many_rows_do_what_single_calls_would_do(
    db: Database,
    *,
    rows: list[dict[str, Any]],
    update: list[str] | None,
    create_defaults: dict[str, Term],
    touch: dict[str, Term],
    skip: bool,
) -> None:
    same: dict[str, Any] = {
        "touch": expressions(touch),
        "skip_unchanged": skip,
        "without_unique_index": "allow",
    }
    added = expressions(create_defaults)
    actions: Counter[Action] = Counter()
    await db.run("DELETE FROM t")
    for row in rows:
        brought = {name: row[name] for name in row if name != "k"}
        names = brought if update is None else update
        single = await create_or_update(
            db.handle,
            "t",
            key={"k": row["k"]},
            defaults={name: row[name] for name in names if name in row},
            create_defaults={**brought, **added},
            **same,
        )
        actions[single.action] += 1
    expected = await content(db)
    await db.run("DELETE FROM t")
    result = await create_or_update_many(
        db.handle, "t", rows, key="k", update=update, create_defaults=added, **same
    )
    assert result == counted(actions)
    assert await content(db) == expected


# --- Few rows, and more than arrays are for ---------------------------------------------

CALLS: Final[dict[str, Call]] = {
    "every column": Call(),
    "names": Call(update=["b"]),
    "nothing": Call(update=[]),
    "expressions": Call(update={"a": ADDED[0], "c": NUMBERS[2]}),
    "condition": Call(where=CONDITIONS[2]),
    "unchanged": Call(skip_unchanged=True),
    "touch": Call(update=["b"], touch={"stamp": NUMBERS[2]}),
    "create defaults": Call(create_defaults={"a": FIVE, "b": TEXTS[0]}),
}


def some_rows(number: int, *, distinct: bool, seed: int) -> list[dict[str, Any]]:
    choose = random.Random(seed)  # noqa: S311  # no secret
    numbers = choose.sample(range(number), number)
    if not distinct:
        numbers = [n % (number * 3 // 4 + 1) for n in numbers]
    rows = []
    for n in numbers:
        row: dict[str, Any] = {"k": n, "a": choose.randrange(10), "b": f"text {n % 5}"}
        if choose.random() < 0.2:
            row["c"] = choose.choice([None, 3])
        if choose.random() < 0.1:
            del row["b"]
        rows.append(row)
    return rows


@ways
@tables
@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "repeated"])
@pytest.mark.parametrize("name", CALLS)
async def test_twenty_rows(
    db: Database, made: str, name: str, *, distinct: bool
) -> None:
    await check_loads(db, CALLS[name], 20, made=made, distinct=distinct)


@engines
@pytest.mark.parametrize("table", ["unique", "numbered", "no unique index"])
@pytest.mark.parametrize("distinct", [True, False], ids=["distinct", "repeated"])
@pytest.mark.parametrize("name", ["every column", "expressions"])
async def test_six_thousand_rows(
    db: Database, made: str, name: str, *, distinct: bool
) -> None:
    if made == "no unique index":
        await db.run("CREATE INDEX i ON t (k)")
    await check_loads(db, CALLS[name], 6_000, made=made, distinct=distinct)


async def check_loads(
    db: Database, call: Call, number: int, *, made: str, distinct: bool
) -> None:
    """Load rows, then more of them, of which most are there."""
    if made == "two columns":
        call = Call(**{**vars(call), "key": ["k", "g"]})
    model = Model()
    for seed, offset in enumerate((0, number // 4)):
        rows = some_rows(number, distinct=distinct, seed=seed)
        for row in rows:
            row["k"] += offset
            if made == "two columns":
                row["g"] = row["k"] % 2
        result = await create_or_update_many(db.handle, "t", rows, **call.options())
        assert result == model.apply_all(call, rows)
        assert await content(db) == model.content()


@every_handle
@pytest.mark.parametrize("number", [0, 1, 2, 3, 100, 999, 1_000, 1_001, 5_000, 5_001])
@pytest.mark.parametrize("size", [None, 1_000])
async def test_on_every_connection_any_number_of_rows(
    db: Database, number: int, size: int | None
) -> None:
    await db.run(TABLES["unique"][db.engine])
    rows = [{"k": n, "a": -n} for n in range(number)]
    for expected in (BulkResult(created=number), BulkResult(updated=number)):
        result = await create_or_update_many(
            db.handle, "t", rows, key="k", batch_size=size
        )
        assert result == expected
        assert result.rows == number
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (n, -n) for n in range(number)
    ]


# --- Cells that are no plain values -----------------------------------------------------


@engines
@tables
@pytest.mark.parametrize("size", [None, 1])
async def test_a_cell_may_be_an_expression_or_callable(
    db: Database, made: str, size: int | None
) -> None:
    key = ["k", "g"] if made == "two columns" else ["k"]
    rows: list[dict[str, Any]] = [
        {"k": 1, "g": 1, "a": F("a") + 1, "c": 1},
        {"k": 2, "g": 1, "a": 20, "c": lambda: 2},
        {"k": 1, "g": 1, "a": F("a") + 2, "c": F("a")},
        {"k": 1, "g": 1, "a": F("a") + 3, "c": None},
        {"k": 2, "g": 1, "a": F("a") + 1, "c": lambda: 4},
        {"k": 3, "g": 1, "a": lambda: 9},
        {"k": 4, "g": 1, "a": 9},
        {"k": 3, "g": 1, "a": 10},
    ]
    result = await create_or_update_many(
        db.handle, "t", rows, key=key, batch_size=size, without_unique_index="allow"
    )
    assert result == BulkResult(created=4, updated=4)
    # F is the default, 7, when the row is created.
    assert await db.query("SELECT k, a, c FROM t ORDER BY k") == [
        (1, 13, None),
        (2, 21, 4),
        (3, 10, None),
        (4, 9, None),
    ]


@engines
async def test_a_callable_is_called_once_for_its_row(db: Database) -> None:
    await db.run(TABLES["unique"][db.engine])
    numbers = iter(range(100, 200))
    rows = [{"k": n % 3, "a": lambda: next(numbers)} for n in range(6)]
    await create_or_update_many(db.handle, "t", rows, key="k")
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (0, 103),
        (1, 104),
        (2, 105),
    ]


@engines
async def test_a_callable_of_the_arguments_is_called(db: Database) -> None:
    await db.run(TABLES["unique"][db.engine])
    rows = [{"k": n % 3} for n in range(6)]
    await create_or_update_many(
        db.handle,
        "t",
        rows,
        key="k",
        update={"a": lambda: 5},
        create_defaults={"b": lambda: "new"},
        touch={"stamp": lambda: 9},
    )
    assert await db.query("SELECT DISTINCT a, b, stamp FROM t") == [(5, "new", 9)]


# --- Arguments --------------------------------------------------------------------------


@engines
async def test_the_keys_columns_may_be_named_in_any_order(db: Database) -> None:
    await db.run(TABLES["two columns"][db.engine])
    rows = [{"a": 1, "g": n, "k": -n} for n in range(5)]
    for key in (["k", "g"], ("g", "k")):
        await create_or_update_many(db.handle, "t", rows, key=key)
    assert await db.query("SELECT g, k, a FROM t ORDER BY g") == [
        (n, -n, 1) for n in range(5)
    ]


@engines
async def test_an_update_may_take_a_column_it_does_not_set(db: Database) -> None:
    await db.run(TABLES["unique"][db.engine] + "; INSERT INTO t (k, c) VALUES (1, 4)")
    rows = [{"k": 1, "a": 10}, {"k": 2, "a": 20}]
    await create_or_update_many(
        db.handle, "t", rows, key="k", update={"c": F("c") + Excluded("a")}
    )
    assert await db.query("SELECT k, a, c FROM t ORDER BY k") == [
        (1, 7, 14),
        (2, 20, None),
    ]


@engines
async def test_the_condition_may_take_the_rows_values(db: Database) -> None:
    await db.run(TABLES["unique"][db.engine])
    older = [{"k": n, "a": 10, "b": "old"} for n in range(4)]
    await create_or_update_many(db.handle, "t", older, key="k")
    newer = [{"k": n, "a": 9 + n % 3, "b": "new"} for n in range(5)]
    result = await create_or_update_many(
        db.handle, "t", newer, key="k", where=Excluded("a") > F("a")
    )
    assert result == BulkResult(created=1, updated=1, skipped=3)
    assert await db.query("SELECT k FROM t WHERE b = 'new' ORDER BY k") == [(2,), (4,)]


@engines
async def test_touch_may_be_the_databases_clock(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer, at timestamp)")
    rows = [{"k": n, "a": n} for n in range(10)]
    options: dict[str, Any] = {"key": "k", "touch": {"at": F("at")}}
    await create_or_update_many(db.handle, "t", rows, **options)
    rows[3]["a"] = 0
    result = await create_or_update_many(db.handle, "t", rows, **options)
    assert result == BulkResult(updated=1, unchanged=9)
