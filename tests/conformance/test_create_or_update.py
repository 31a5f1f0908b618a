"""What each argument of create_or_update means, and what each call reports."""

from typing import Any, get_args

import pytest

from aioupsert import (
    DEFAULT,
    Action,
    Excluded,
    F,
    MissingUniqueIndexError,
    Result,
    UsageError,
    create_or_update,
)
from aioupsert.typing import Strategy
from tests.support.databases import Database, every_handle

PAGES = """
    CREATE TABLE pages (
        path TEXT PRIMARY KEY,
        hits INTEGER NOT NULL DEFAULT 10,
        note TEXT,
        made TEXT,
        seen TEXT
    )
"""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
HIT = {"hits": F("hits") + 1}
HOME = {"path": "/"}

CREATED, UPDATED, UNCHANGED, SKIPPED, _ = Action

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture
async def pages(db: Database) -> Database:
    """An empty table with a primary key."""
    await db.run(PAGES)
    return db


@pytest.fixture
async def home(pages: Database) -> Database:
    """The same, with one row."""
    await pages.run("INSERT INTO pages VALUES ('/', 1, 'a', 'b', 'c')")
    return pages


async def stored(db: Database) -> list[tuple[Any, ...]]:
    return await db.query("SELECT path, hits, note, made, seen FROM pages")


# --- defaults and create_defaults ---


@every_handle
@every_strategy
async def test_a_missing_row_is_created_then_updated(
    pages: Database, strategy: Strategy
) -> None:
    results = [
        await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={**HIT, "note": note},
            returning=("path", "hits", "note"),
            strategy=strategy,
        )
        for note in ("one", "two")
    ]
    assert results == [
        Result(CREATED, 1, ({"path": "/", "hits": 11, "note": "one"},)),
        Result(UPDATED, 1, ({"path": "/", "hits": 12, "note": "two"},)),
    ]
    assert await stored(pages) == [("/", 12, "two", None, None)]


@every_strategy
async def test_other_rows_and_columns_stay(home: Database, strategy: Strategy) -> None:
    await home.run("INSERT INTO pages (path, hits) VALUES ('/other', 5)")
    await create_or_update(
        home.handle, "pages", key=HOME, defaults={"note": "new"}, strategy=strategy
    )
    assert sorted(await stored(home)) == [
        ("/", 1, "new", "b", "c"),
        ("/other", 5, None, None, None),
    ]


@every_strategy
async def test_create_defaults_are_merged_over_defaults_on_create_only(
    pages: Database, strategy: Strategy
) -> None:
    results = [
        await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"note": "always", "seen": seen},
            create_defaults={"note": "at first", "made": seen},
            returning=("note", "seen", "made"),
            strategy=strategy,
        )
        for seen in ("1", "2")
    ]
    assert [result.row for result in results] == [
        {"note": "at first", "seen": "1", "made": "1"},
        {"note": "always", "seen": "2", "made": "1"},
    ]


async def test_create_defaults_win_over_the_key_on_create(pages: Database) -> None:
    result = await create_or_update(
        pages.handle,
        "pages",
        key=HOME,
        defaults={"note": "x"},
        create_defaults={"path": "/made"},
        returning="path",
    )
    assert result == Result(CREATED, 1, ({"path": "/made"},))
    assert await stored(pages) == [("/made", 10, "x", None, None)]


async def test_defaults_may_rename_the_row(home: Database) -> None:
    result = await create_or_update(
        home.handle, "pages", key=HOME, defaults={"path": "/new"}, returning="path"
    )
    assert result == Result(UPDATED, 1, ({"path": "/new"},))
    assert await stored(home) == [("/new", 1, "a", "b", "c")]


async def test_defaults_win_over_the_key_on_create(pages: Database) -> None:
    result = await create_or_update(
        pages.handle, "pages", key=HOME, defaults={"path": "/new"}, returning="path"
    )
    assert result == Result(CREATED, 1, ({"path": "/new"},))


@pytest.mark.parametrize("defaults", [None, {}], ids=["none", "empty"])
@every_strategy
async def test_without_defaults_a_row_that_is_there_is_unchanged(
    pages: Database, strategy: Strategy, defaults: dict[str, Any] | None
) -> None:
    results = [
        await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults=defaults,
            create_defaults={"made": "now"},
            returning=("path", "hits", "made"),
            strategy=strategy,
        )
        for _ in range(2)
    ]
    row = {"path": "/", "hits": 10, "made": "now"}
    assert results == [Result(CREATED, 1, (row,)), Result(UNCHANGED, 0, (row,))]


@every_handle
async def test_callables_are_called_once_when_the_call_is_made(
    pages: Database,
) -> None:
    calls: list[str] = []

    def value(name: str) -> str:
        calls.append(name)
        return name

    for _ in range(2):
        await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"note": lambda: value("note")},
            create_defaults={"made": lambda: value("made")},
            touch={"seen": lambda: value("seen")},
        )
    assert calls == ["note", "made", "seen"] * 2
    assert await stored(pages) == [("/", 10, "note", "made", "seen")]


async def test_a_callable_may_give_an_expression(home: Database) -> None:
    await create_or_update(
        home.handle, "pages", key=HOME, defaults={"hits": lambda: F("hits") * 7}
    )
    assert await stored(home) == [("/", 7, "a", "b", "c")]


@every_strategy
async def test_default_is_the_default_of_the_database(
    home: Database, strategy: Strategy
) -> None:
    for path in ("/", "/new"):
        await create_or_update(
            home.handle,
            "pages",
            key={"path": path},
            defaults={"hits": DEFAULT, "note": DEFAULT},
            strategy=strategy,
        )
    rows = await home.query("SELECT path, hits, note FROM pages ORDER BY path")
    assert rows == [("/", 10, None), ("/new", 10, None)]


async def test_none_is_written_as_null(home: Database) -> None:
    await create_or_update(home.handle, "pages", key=HOME, defaults={"note": None})
    assert await stored(home) == [("/", 1, None, "b", "c")]


async def test_the_callers_mappings_are_left_alone(pages: Database) -> None:
    key, defaults, create_defaults = dict(HOME), {"note": "a"}, {"made": "b"}
    for _ in range(2):
        await create_or_update(
            pages.handle,
            "pages",
            key=key,
            defaults=defaults,
            create_defaults=create_defaults,
        )
    assert (key, defaults, create_defaults) == (HOME, {"note": "a"}, {"made": "b"})


# --- key ---


async def test_every_column_of_a_composite_key_counts(db: Database) -> None:
    await db.run("CREATE TABLE t (a TEXT, b INTEGER, n INTEGER, PRIMARY KEY (a, b))")
    keys = [
        {"a": "x", "b": 1},
        {"b": 2, "a": "x"},
        {"a": "y", "b": 1},
        {"b": 1, "a": "x"},
    ]
    actions = [
        (await create_or_update(db.handle, "t", key=key, defaults={"n": n})).action
        for n, key in enumerate(keys)
    ]
    assert actions == [CREATED, CREATED, CREATED, UPDATED]
    assert sorted(await db.query("SELECT a, b, n FROM t")) == [
        ("x", 1, 3),
        ("x", 2, 1),
        ("y", 1, 2),
    ]


@pytest.mark.parametrize("strategy", ["auto", "fast", "exact"])
async def test_none_in_the_key_means_is_null(db: Database, strategy: Strategy) -> None:
    await db.run("CREATE TABLE t (a TEXT, b INTEGER, n INTEGER)")
    await db.run("INSERT INTO t VALUES ('x', 1, 0)")
    actions = [
        (
            await create_or_update(
                db.handle,
                "t",
                key={"a": "x", "b": None},
                defaults={"n": n},
                without_unique_index="allow",
                strategy=strategy,
            )
        ).action
        for n in (1, 2)
    ]
    assert actions == [CREATED, UPDATED]
    rows = await db.query("SELECT a, b, n FROM t ORDER BY n")
    assert rows == [("x", 1, 0), ("x", None, 2)]


async def test_a_key_with_and_without_none_are_different_keys(db: Database) -> None:
    await db.run("CREATE TABLE t (a TEXT, b INTEGER, n INTEGER)")
    for b in (None, 1, None, 1):
        await create_or_update(
            db.handle,
            "t",
            key={"a": "x", "b": b},
            defaults={"n": F("n") + 1},
            create_defaults={"n": 1},
            without_unique_index="allow",
        )
    rows = await db.query("SELECT b, n FROM t")
    assert sorted(rows, key=str) == [(1, 2), (None, 2)]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ({}, "key is empty"),
        (None, "key must be a mapping .* not None"),
        ("path", "key must be a mapping .* not 'path'"),
        ({"path": F("note")}, r"key\['path'\] must be a plain value, not F\('note'\)"),
    ],
    ids=["empty", "None", "text", "expression"],
)
async def test_a_key_that_identifies_nothing_is_refused(
    pages: Database, key: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        await create_or_update(pages.handle, "pages", key=key, defaults={"note": "x"})
    assert await stored(pages) == []


@every_handle
async def test_every_row_that_matches_is_updated(db: Database) -> None:
    await db.run("CREATE TABLE t (a TEXT, n INTEGER)")
    await db.run("INSERT INTO t VALUES ('x', 1), ('x', 2), ('y', 3)")
    result = await create_or_update(
        db.handle,
        "t",
        key={"a": "x"},
        defaults={"n": F("n") + 10},
        returning="n",
        without_unique_index="allow",
    )
    assert (result.action, result.rows_affected) == (UPDATED, 2)
    assert sorted(row["n"] for row in result.rows) == [11, 12]
    assert sorted(await db.query("SELECT n FROM t")) == [(3,), (11,), (12,)]


# --- where ---


@every_strategy
async def test_where_decides_whether_a_row_is_updated(
    pages: Database, strategy: Strategy
) -> None:
    async def see(seen: str) -> Result:
        return await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"seen": seen},
            where=Excluded("seen") > F("seen"),
            returning="seen",
            strategy=strategy,
        )

    assert [await see(seen) for seen in ("2", "1", "3")] == [
        Result(CREATED, 1, ({"seen": "2"},)),
        Result(SKIPPED, 0, ({"seen": "2"},)),
        Result(UPDATED, 1, ({"seen": "3"},)),
    ]


@every_strategy
async def test_a_condition_that_is_null_skips(
    home: Database, strategy: Strategy
) -> None:
    await home.run("UPDATE pages SET seen = NULL")
    result = await create_or_update(
        home.handle,
        "pages",
        key=HOME,
        defaults={"seen": "1"},
        where=Excluded("seen") > F("seen"),
        strategy=strategy,
    )
    assert result == Result(SKIPPED, 0)


@pytest.mark.parametrize("options", [{}, {"touch": {"seen": "now"}}], ids=str)
async def test_where_is_judged_before_unchanged(
    home: Database, options: dict[str, Any]
) -> None:
    actions = [
        (
            await create_or_update(
                home.handle,
                "pages",
                key=HOME,
                defaults={"note": "a"},
                where=F("hits") == hits,
                skip_unchanged=True,
                **options,
            )
        ).action
        for hits in (99, 1)
    ]
    assert actions == [SKIPPED, UNCHANGED]


async def test_where_is_judged_without_defaults_too(home: Database) -> None:
    actions = [
        (
            await create_or_update(
                home.handle, "pages", key=HOME, where=F("hits") == hits
            )
        ).action
        for hits in (99, 1)
    ]
    assert actions == [SKIPPED, UNCHANGED]


async def test_a_plain_value_is_no_condition(home: Database) -> None:
    condition: Any = True
    with pytest.raises(UsageError, match=r"where takes an expression .* not True"):
        await create_or_update(
            home.handle, "pages", key=HOME, defaults={"note": "x"}, where=condition
        )


# --- skip_unchanged and touch ---


@every_strategy
async def test_an_equal_row_is_left_if_asked(
    pages: Database, strategy: Strategy
) -> None:
    async def write(note: str | None) -> Result:
        return await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"note": note, "hits": 3},
            skip_unchanged=True,
            returning="note",
            strategy=strategy,
        )

    assert [await write(note) for note in ("a", "a", None, None, "b")] == [
        Result(CREATED, 1, ({"note": "a"},)),
        Result(UNCHANGED, 0, ({"note": "a"},)),
        Result(UPDATED, 1, ({"note": None},)),
        Result(UNCHANGED, 0, ({"note": None},)),
        Result(UPDATED, 1, ({"note": "b"},)),
    ]


async def test_an_equal_row_is_written_if_nothing_was_asked(home: Database) -> None:
    result = await create_or_update(
        home.handle, "pages", key=HOME, defaults={"note": "a"}
    )
    assert result == Result(UPDATED, 1)


@pytest.mark.parametrize(
    ("value", "action"),
    [(F("hits") + 0, UNCHANGED), (F("hits") + 1, UPDATED), (DEFAULT, UPDATED)],
    ids=repr,
)
async def test_expressions_can_leave_a_row_unchanged(
    home: Database, value: Any, action: Action
) -> None:
    result = await create_or_update(
        home.handle, "pages", key=HOME, defaults={"hits": value}, skip_unchanged=True
    )
    assert result.action is action


@every_strategy
async def test_touch_is_written_only_with_another_change(
    pages: Database, strategy: Strategy
) -> None:
    async def write(note: str, moment: str) -> Result:
        return await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"note": note},
            touch={"seen": moment},
            returning="seen",
            strategy=strategy,
        )

    assert [await write("a", "1"), await write("a", "2"), await write("b", "3")] == [
        Result(CREATED, 1, ({"seen": "1"},)),
        Result(UNCHANGED, 0, ({"seen": "1"},)),
        Result(UPDATED, 1, ({"seen": "3"},)),
    ]


async def test_touch_alone_never_updates(home: Database) -> None:
    result = await create_or_update(
        home.handle, "pages", key=HOME, touch={"seen": "now"}, returning="seen"
    )
    assert result == Result(UNCHANGED, 0, ({"seen": "c"},))


async def test_create_defaults_win_over_touch(pages: Database) -> None:
    result = await create_or_update(
        pages.handle,
        "pages",
        key=HOME,
        touch={"seen": "touched"},
        create_defaults={"seen": "created"},
        returning="seen",
    )
    assert result.row == {"seen": "created"}


async def test_a_value_given_for_a_touched_column_wins(pages: Database) -> None:
    for note in ("given", "new"):
        result = await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"seen": note},
            touch={"seen": "touched"},
            returning="seen",
        )
        assert result.row == {"seen": note}


# --- returning ---


@pytest.mark.parametrize(
    ("returning", "columns"),
    [
        (None, None),
        ((), None),
        ("*", ["path", "hits", "note", "made", "seen"]),
        ("note", ["note"]),
        (["seen", "path"], ["seen", "path"]),
        (("hits", "note", "hits"), ["hits", "note"]),
    ],
    ids=str,
)
async def test_the_row_has_the_columns_asked_for(
    pages: Database, returning: Any, columns: list[str] | None
) -> None:
    values = {"path": "/", "hits": 3, "note": "a", "made": None, "seen": None}
    for action in (CREATED, UPDATED):
        result = await create_or_update(
            pages.handle,
            "pages",
            key=HOME,
            defaults={"hits": 3, "note": "a"},
            returning=returning,
        )
        expected = columns and {name: values[name] for name in columns}
        assert (result.action, result.row) == (action, expected)
        assert columns is None or list(result.row or ()) == columns


async def test_returning_is_what_the_database_stored(db: Database) -> None:
    await db.run(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER,"
        " double INTEGER GENERATED ALWAYS AS (n * 2) STORED)"
    )
    rows = [
        (
            await create_or_update(
                db.handle, "t", key={"k": 1}, defaults={"n": n}, returning="*"
            )
        ).row
        for n in (1, 2)
    ]
    assert rows == [{"k": 1, "n": 1, "double": 2}, {"k": 1, "n": 2, "double": 4}]


# --- without_unique_index and strategy: what is refused ---


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"strategy": "slow"}, "strategy must be one of 'auto', .* not 'slow'"),
        (
            {"without_unique_index": "ignore"},
            "without_unique_index must be one of 'warn', .* not 'ignore'",
        ),
    ],
    ids=["strategy", "without_unique_index"],
)
async def test_an_unknown_word_is_refused(
    pages: Database, argument: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        await create_or_update(
            pages.handle, "pages", key=HOME, defaults={"note": "x"}, **argument
        )
    assert await stored(pages) == []


async def test_on_conflict_needs_a_unique_index_on_exactly_the_key(
    pages: Database,
) -> None:
    with pytest.raises(MissingUniqueIndexError, match=r"exactly \(path, note\)"):
        await create_or_update(
            pages.handle,
            "pages",
            key={"path": "/", "note": "a"},
            defaults=HIT,
            strategy="on_conflict",
        )


@pytest.mark.parametrize("argument", ["defaults", "create_defaults"])
async def test_on_conflict_does_not_rename(pages: Database, argument: str) -> None:
    values: dict[str, Any] = {argument: {"path": "/new"}}
    with pytest.raises(UsageError, match="path is given another value"):
        await create_or_update(
            pages.handle, "pages", key=HOME, strategy="on_conflict", **values
        )
