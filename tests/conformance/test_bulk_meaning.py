"""Bulk calls do what applying each row in order would do: a dict says what that is."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import given
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
from tests.support.databases import CONNECTIONS, EVERY_KIND, Database
from tests.support.model import Model, Row, Upsert, Value, given_values, literal
from tests.support.pairwise import pairwise

# --- The model --------------------------------------------------------------------------

DEFAULTS: Final = {"g": None, "a": 7, "b": None, "c": None, "stamp": 0}
COLUMNS: Final = ("k", *DEFAULTS)


def plus(one: Any, two: Any) -> Any:
    return None if one is None or two is None else one + two


def first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def highest(*values: Any) -> Any:
    return max((value for value in values if value is not None), default=None)


def below(one: Any, two: Any) -> bool:
    return one is not None and two is not None and one < two


FIVE: Final = literal(5)
NULL: Final = literal(None)
NUMBERS: Final = (
    FIVE,
    NULL,
    Value(F("a") + 1, lambda s, _: plus(s["a"], 1)),
    Value(F("c"), lambda s, _: s["c"]),
    Value(Excluded("k"), lambda _, r: r["k"]),
    Value(coalesce(F("c"), Excluded("k")), lambda s, r: first(s["c"], r["k"])),
)
ADDED: Final = (
    Value(F("a") + Excluded("a"), lambda s, r: plus(s["a"], r["a"]), frozenset("a")),
    Value(Excluded("c"), lambda _, r: r["c"], frozenset("c")),
    Value(
        coalesce(Excluded("a"), F("a")),
        lambda s, r: first(r["a"], s["a"]),
        frozenset("a"),
    ),
    Value(
        greatest(F("c"), Excluded("a"), Excluded("c")),
        lambda s, r: highest(s["c"], r["a"], r["c"]),
        frozenset("ac"),
    ),
)
TEXTS: Final = (
    literal("x"),
    NULL,
    Value(F("b"), lambda s, _: s["b"]),
    Value(
        coalesce(F("b"), Excluded("b")),
        lambda s, r: first(s["b"], r["b"]),
        frozenset("b"),
    ),
    Value(Excluded("b"), lambda _, r: r["b"], frozenset("b")),
)
CONDITIONS: Final = (
    None,
    None,
    Value(F("a") < 8, lambda s, _: below(s["a"], 8)),
    Value(Excluded("k") > 1, lambda _, r: below(1, r["k"])),
    Value(F("b") == None, lambda s, _: s["b"] is None),  # noqa: E711  # SQL's IS NULL
    Value(F("c") < Excluded("k"), lambda s, r: below(s["c"], r["k"])),
)


@dataclass
class Call:
    """The arguments of a call."""

    key: Sequence[str] = ("k",)
    update: Sequence[str] | Mapping[str, Value] | None = None
    create_defaults: Mapping[str, Value] = field(default_factory=dict)
    where: Value | None = None
    skip_unchanged: bool = False
    touch: Mapping[str, Value] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Give them as the library takes them."""
        update: Any = self.update
        if isinstance(update, Mapping):
            update = given_values(update)
        return {
            "key": self.key,
            "update": update,
            "create_defaults": given_values(self.create_defaults),
            "where": None if self.where is None else self.where.given,
            "skip_unchanged": self.skip_unchanged,
            "touch": given_values(self.touch),
            "without_unique_index": "allow",
        }


def counted(actions: Counter[Action]) -> BulkResult:
    return BulkResult(
        created=actions[Action.CREATED],
        updated=actions[Action.UPDATED],
        unchanged=actions[Action.UNCHANGED],
        skipped=actions[Action.SKIPPED],
    )


def apply(model: Model, call: Call, row: Row) -> tuple[Action, Row]:
    """Do what one row does."""
    values = {name: literal(value) for name, value in row.items()}
    if isinstance(call.update, Mapping):
        updated = {n: v for n, v in call.update.items() if v.takes <= row.keys()}
    else:
        brought = values.keys() - {*call.key}
        names = brought if call.update is None else call.update
        updated = {name: values[name] for name in names if name in values}
    done = model.write(
        tuple(row[name] for name in call.key),
        Upsert(
            {**values, **call.touch, **call.create_defaults},
            updated,
            call.touch,
            call.where,
            call.skip_unchanged,
        ),
        row,
    )
    assert done is not None
    return done


def apply_all(model: Model, call: Call, rows: Sequence[Row]) -> BulkResult:
    return counted(Counter(apply(model, call, row)[0] for row in rows))


def content_of(model: Model) -> list[tuple[Any, ...]]:
    rows = [tuple(row[name] for name in COLUMNS) for row in model.rows.values()]
    return sorted(rows, key=repr)


# --- Tables, calls and rows -------------------------------------------------------------

BODY: Final = (
    "k integer, g integer, a integer DEFAULT 7, b text, c integer,"
    " stamp integer DEFAULT 0"
)
# A column that no row brings, and every row must have.
OTHER: Final = "w text NOT NULL DEFAULT 'w'"
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
        ("postgresql", "sqlite"), f"CREATE TABLE t ({BODY}, {OTHER}, UNIQUE (g, k))"
    ),
    "no unique index": dict.fromkeys(
        ("postgresql", "sqlite"), f"CREATE TABLE t ({BODY}, {OTHER})"
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
    | st.sampled_from("abc")
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

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
# SQLite has no COPY.
WAYS: Final = [
    *((kind, "at once") for kind in CONNECTIONS),
    *((kind, "copied") for kind in CONNECTIONS if kind != "aiosqlite"),
]
ways = pytest.mark.parametrize(("db", "way"), WAYS, indirect=True)
tables = pytest.mark.parametrize("table", TABLES)
SQL: Final = f"SELECT {', '.join(COLUMNS)} FROM t"


@pytest.fixture
async def made(db: Database, table: str) -> str:
    await db.run(TABLES[table][db.engine])
    return table


@pytest.fixture
def way(request: pytest.FixtureRequest) -> None:
    if request.param == "copied":
        request.getfixturevalue("small_copies")


async def content(db: Database) -> list[tuple[Any, ...]]:
    return sorted(await db.query(SQL), key=repr)


# --- Any rows, any arguments ------------------------------------------------------------


@ways
@tables
@pytest.mark.usefixtures("way")
@given(data=st.data(), call=calls, size=sizes, atomic=st.booleans())
async def test_many_rows_do_what_each_in_order_would_do(
    db: Database, made: str, *, data: Any, call: Call, size: int | None, atomic: bool
) -> None:
    rows_of, call.key = (
        (two_keys, ["g", "k"]) if made == "two columns" else (one_key, ["k"])
    )
    batches = data.draw(st.lists(st.lists(rows_of, max_size=12), max_size=3))
    await db.run("DELETE FROM t")
    model = Model(DEFAULTS)
    for rows in batches:
        result = await create_or_update_many(
            db.handle, "t", rows, batch_size=size, atomic=atomic, **call.options()
        )
        assert result == apply_all(model, call, rows)
        assert await content(db) == content_of(model)


@ways
@tables
@pytest.mark.usefixtures("way")
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
    model, expected = Model(DEFAULTS), []
    for row in rows:
        action, left = apply(model, call, row)
        written = action in {Action.CREATED, Action.UPDATED}
        expected.append((action, int(written), left))
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
    assert await content(db) == content_of(model)


@engines
@tables
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
    create_defaults: dict[str, Value],
    touch: dict[str, Value],
    skip: bool,
) -> None:
    same: dict[str, Any] = {
        "touch": given_values(touch),
        "skip_unchanged": skip,
        "without_unique_index": "allow",
    }
    added = given_values(create_defaults)
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


@pytest.mark.parametrize(
    ("db", "way", "table", "name", "distinct"),
    [
        (kind, way, *others)
        for (kind, way), *others in pairwise(WAYS, TABLES, CALLS, [True, False])
    ],
    indirect=["db", "way"],
)
@pytest.mark.usefixtures("way")
async def test_twenty_rows(
    db: Database, made: str, name: str, *, distinct: bool
) -> None:
    call = CALLS[name]
    if made == "two columns":
        call = Call(**{**vars(call), "key": ["k", "g"]})
    model = Model(DEFAULTS)
    # The second time most of them exist.
    for seed, offset in enumerate((0, 5)):
        rows = some_rows(20, distinct=distinct, seed=seed)
        for row in rows:
            row["k"] += offset
            if made == "two columns":
                row["g"] = row["k"] % 2
        result = await create_or_update_many(db.handle, "t", rows, **call.options())
        assert result == apply_all(model, call, rows)
        assert await content(db) == content_of(model)


@pytest.mark.parametrize(
    ("db", "number", "size"),
    pairwise(EVERY_KIND, [0, 1, 2, 1_000, 1_001, 5_000, 5_001], [None, 1_000]),
    indirect=["db"],
)
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
