"""Plans and catalogs of SQLite as text; the only database is one in memory."""

import re
import sqlite3
from contextlib import closing
from typing import Any

import hypothesis
import pytest

from aioupsert import (
    DEFAULT,
    SQL,
    Excluded,
    F,
    UnknownTableError,
    coalesce,
    func,
    greatest,
    least,
    lower,
    now,
)
from aioupsert._engines.sql import CompiledStatement
from aioupsert._engines.sqlite.compiler import compile_call
from aioupsert._plan import Plan
from aioupsert._plan.schema import Pin, Table, UniqueIndex
from tests.unit.plans import described, drawn_calls, flat, plan, read

HITS = described(
    "CREATE TABLE t (id INTEGER PRIMARY KEY, hits INTEGER DEFAULT 0, name TEXT)"
)


def update_of(made: Plan) -> CompiledStatement:
    statement = compile_call(made).update
    assert statement is not None
    return statement


# --- Whole statements -----------------------------------------------------------------


def test_the_steps_of_a_plain_call() -> None:
    made = plan(HITS, defaults={"hits": F("hits") + 1}, returning="hits")
    program = compile_call(made)
    update, insert = program.statements()
    assert (program.single, program.find) == (None, None)
    assert update.sql == flat(
        """
        UPDATE "t" SET "hits" = ("t"."hits" + ?) WHERE "t"."id" = ?
        RETURNING 2, "t"."hits"
        """
    )
    assert insert.sql == flat(
        """
        INSERT INTO "t" ("id", "hits") VALUES (?, ((0) + ?)) RETURNING 1, "t"."hits"
        """
    )
    assert [step.when for step in (update, insert)] == [
        "first",
        "when the row does not exist",
    ]


def test_the_steps_of_a_conditional_call() -> None:
    made = plan(
        HITS,
        defaults={"name": "x"},
        where=F("hits") < 3,
        touch={"hits": 5},
        returning="id",
    )
    update, find, insert = compile_call(made).statements()
    assert update.sql == flat(
        """
        UPDATE "t" SET "name" = ?, "hits" = ?
        WHERE "t"."id" = ? AND coalesce(("t"."hits" < ?), 0)
            AND ("t"."name" IS NOT ? COLLATE BINARY)
        RETURNING 2, "t"."id"
        """
    )
    assert find.sql == flat(
        """
        SELECT CASE WHEN NOT coalesce(("t"."hits" < ?), 0) THEN 4
            WHEN NOT ("t"."name" IS NOT ? COLLATE BINARY) THEN 3 ELSE 2 END, "t"."id"
        FROM "t" WHERE "t"."id" = ?
        """
    )
    assert insert.sql == flat(
        """
        INSERT INTO "t" ("id", "name", "hits") VALUES (?, ?, ?) RETURNING 1, "t"."id"
        """
    )
    assert find.when == "if nothing was updated"


def test_the_steps_of_a_call_that_never_updates() -> None:
    find, insert = compile_call(plan(HITS, create_defaults={"name": "x"})).statements()
    assert find.sql == flat(
        """
        SELECT CASE WHEN NOT 1 THEN 4 WHEN NOT 0 THEN 3 ELSE 2 END
        FROM "t" WHERE "t"."id" = ?
        """
    )
    assert insert.sql == 'INSERT INTO "t" ("id", "name") VALUES (?, ?)'
    assert insert.counted_as == 1
    assert find.when == "first"


def test_the_native_upsert() -> None:
    made = plan(HITS, defaults={"name": "x"}, strategy="on_conflict", returning="id")
    find, upsert = compile_call(made).statements()
    assert find.sql == flat(
        """
        SELECT CASE WHEN NOT 1 THEN 4 WHEN NOT 1 THEN 3 ELSE 2 END, "t"."id"
        FROM "t" WHERE "t"."id" = ?
        """
    )
    assert upsert.sql == flat(
        """
        INSERT INTO "t" ("id", "name") VALUES (?, ?)
        ON CONFLICT ("id") DO UPDATE SET "name" = ?
        RETURNING CASE WHEN "t"."id" IS ? COLLATE BINARY THEN 1 ELSE 2 END, "t"."id"
        """
    )


def test_the_native_upsert_that_never_updates() -> None:
    _, upsert = compile_call(plan(HITS, strategy="on_conflict")).statements()
    assert 'VALUES (?) ON CONFLICT ("id") DO NOTHING RETURNING' in upsert.sql


def test_a_virtual_table_returns_no_rows_and_is_counted() -> None:
    virtual = described("CREATE VIRTUAL TABLE t USING fts5(a, b)")
    update, insert = compile_call(
        plan(virtual, key={"a": "x"}, defaults={"b": "y"}, without_unique_index="allow")
    ).statements()
    assert update.sql == 'UPDATE "t" SET "b" = ? WHERE "t"."a" = ?'
    assert insert.sql == 'INSERT INTO "t" ("a", "b") VALUES (?, ?)'
    assert (update.counted_as, insert.counted_as) == (2, 1)


def test_a_view_is_read_before_and_after() -> None:
    view = described("CREATE TABLE s (a, b); CREATE VIEW t AS SELECT * FROM s")
    made = plan(view, key={"a": 1}, defaults={"b": 2}, returning="b")
    _, find, _ = compile_call(made).statements()
    assert find.when == "before and after"
    assert (made.warning, made.exact_because) == (None, None)


# --- Parts ----------------------------------------------------------------------------


def test_each_use_of_a_value_has_its_own_place() -> None:
    made = plan(HITS, key={"id": 1, "name": "a"}, defaults={"hits": F("hits") + 3})
    assert list(update_of(made).arguments([1, "a", 3])) == [3, 1, "a"]
    assert list(compile_call(made).insert.arguments([1, "a", 3])) == [1, "a", 3]


def test_one_value_and_none_are_picked_too() -> None:
    (find, insert) = compile_call(plan(HITS)).statements()
    assert list(find.arguments([7])) == [7]
    bare = plan(HITS, key={"name": None}, without_unique_index="allow")
    find, insert = compile_call(bare).statements()
    assert list(find.arguments([None])) == []
    assert list(insert.arguments([None])) == [None]


def test_dicts_and_lists_are_encoded() -> None:
    made = plan(
        HITS, key={"name": ["k"]}, defaults={"hits": {"a": "ü"}}, where=F("name") == "x"
    )
    arguments = update_of(made).arguments([["k"], {"a": "ü"}, "x"])
    assert list(arguments) == ['{"a":"ü"}', '["k"]', "x"]


def test_a_row_without_values_is_all_defaults() -> None:
    made = plan(
        described("CREATE TABLE t (id INTEGER PRIMARY KEY, a, g AS (1))"),
        key={"g": 1},
        without_unique_index="allow",
    )
    assert compile_call(made).insert.sql == 'INSERT INTO "t" DEFAULT VALUES'


def test_a_default_is_written_in_place_on_update_and_left_out_on_insert() -> None:
    made = plan(HITS, defaults={"hits": DEFAULT, "name": DEFAULT})
    assert 'SET "hits" = (0), "name" = (NULL)' in update_of(made).sql
    assert compile_call(made).insert.sql == 'INSERT INTO "t" ("id") VALUES (?)'


def test_nothing_changes_where_there_is_nothing_to_compare() -> None:
    made = plan(HITS, touch={"hits": 1})
    (find, _) = compile_call(made).statements()
    assert "WHEN NOT 0 THEN 3" in find.sql


def test_the_schema_is_written_where_it_may_stand() -> None:
    made = plan(
        described("CREATE TABLE t (id INTEGER PRIMARY KEY, a)", name=("main", "t")),
        defaults={"a": F("a")},
        returning="a",
    )
    assert update_of(made).sql == flat(
        """
        UPDATE "main"."t" SET "a" = "t"."a" WHERE "t"."id" = ? RETURNING 2, "t"."a"
        """
    )


def value_of(expression: Any) -> str:
    """How an expression about the stored row is written."""
    kinds = described(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, i INTEGER, r REAL, x TEXT, y TEXT,"
        " doc JSON, flag BOOLEAN, out)"
    )
    found = re.search(
        r'SET "out" = (.*) WHERE "t"."id" = \?',
        update_of(plan(kinds, defaults={"out": expression})).sql,
    )
    assert found is not None
    return found[1]


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        (F("i") + 1, '("t"."i" + ?)'),
        (F("i") / 2, '("t"."i" / ?)'),
        (F("i") / F("r"), '(CAST("t"."i" AS REAL) / "t"."r")'),
        (F("i") % 2, '("t"."i" % ?)'),
        (F("x") < "x", '(("t"."x" COLLATE BINARY) < (? COLLATE BINARY))'),
        (F("i") < 2, '("t"."i" < ?)'),
        (F("i").in_([1, 2]), '("t"."i" IN (SELECT value FROM json_each(?)))'),
        (F("i").in_([1.5, 2, 3]), '("t"."i" IN (?, ?, ?, ?))'),
        (F("i").in_([]), "FALSE"),
        (F("i").is_null(), '("t"."i" IS NULL)'),
        (~F("flag"), '(NOT "t"."flag")'),
        (coalesce(F("i"), 0), 'coalesce("t"."i", ?, NULL)'),
        (greatest(F("i")), '"t"."i"'),
        (greatest(F("i"), 1), 'max(coalesce("t"."i", ?), coalesce(?, "t"."i"))'),
        (least(F("i"), None), 'min(coalesce("t"."i", NULL), coalesce(NULL, "t"."i"))'),
        (
            greatest(F("x"), F("y")),
            flat(
                """
                max(coalesce(("t"."x" COLLATE BINARY), ("t"."y" COLLATE BINARY)),
                    coalesce(("t"."y" COLLATE BINARY), ("t"."x" COLLATE BINARY)))
                """
            ),
        ),
        (lower(F("x")), 'lower("t"."x")'),
        (F("x").concat(F("i"), "x"), '("t"."x" || "t"."i" || ?)'),
        (now(), "strftime('%Y-%m-%d %H:%M:%f', 'now')"),
        (func("f", "a", F("x")), 'f(?, "t"."x")'),
        (SQL("{} GLOB {}", F("x"), "a"), '("t"."x" GLOB ?)'),
        (Excluded("id"), "?"),
    ],
    ids=repr,
)
def test_an_expression_is_written_so_that_both_engines_agree(
    expression: Any, written: str
) -> None:
    assert value_of(expression) == written


# --- Any plan -------------------------------------------------------------------------

# Names and texts in quotes, in which a placeholder is none.
_QUOTED = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'')


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(drawn_calls())
def test_there_are_as_many_placeholders_as_arguments(
    drawn: tuple[Table, dict[str, Any]],
) -> None:
    relation, call = drawn
    _, values = read(**call)
    for statement in compile_call(plan(relation, **call)).statements():
        places = _QUOTED.sub("", statement.sql).count("?")
        assert places == len(statement.arguments(values))


# --- The catalog ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "family", "storage"),
    [
        ("INTEGER", "integer", "sqlite number"),
        ("unsigned big int", "integer", "sqlite number"),
        ("INTERVAL", "integer", "sqlite number"),
        ("VARCHAR(3)", "text", "sqlite text"),
        ("CLOB", "text", "sqlite text"),
        ("text", "text", "sqlite text"),
        ("", "", "sqlite blob"),
        ("BLOB", "bytes", "sqlite blob"),
        ("DOUBLE PRECISION", "number", "sqlite real"),
        ("FLOAT", "number", "sqlite real"),
        ("REAL", "number", "sqlite real"),
        ("BOOLEAN", "boolean", "sqlite number"),
        ("JSON", "json", "sqlite number"),
        ("NUMERIC(5, 2)", "number", "sqlite number"),
        ("DECIMAL", "number", "sqlite number"),
        ("UUID", "", "sqlite number"),
    ],
)
def test_a_declared_type_has_an_affinity(
    declared: str, family: str, storage: str
) -> None:
    found = described(f"CREATE TABLE t (a {declared})").columns["a"]
    assert (found.family, found.storage) == (family, storage)


@pytest.mark.parametrize("declared", ["DATE", "TIMESTAMP", "datetime"])
def test_a_time_is_of_a_kind_of_its_own(declared: str) -> None:
    found = described(f"CREATE TABLE t (a {declared})").columns["a"]
    assert (found.family, found.storage) == ("date", "sqlite number")


def test_any_has_no_affinity_in_a_strict_table() -> None:
    strict = described("CREATE TABLE t (a ANY) STRICT").columns["a"]
    loose = described("CREATE TABLE t (a ANY)").columns["a"]
    assert (strict.storage, loose.storage) == ("sqlite blob", "sqlite number")


def keys(found: Table) -> list[tuple[str | None, ...]]:
    return [index.columns for index in found.unique]


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        ("CREATE TABLE t (a)", [("rowid",)]),
        ("CREATE TABLE t (a INTEGER PRIMARY KEY)", [("a",), ("rowid",)]),
        ("CREATE TABLE t (a TEXT PRIMARY KEY)", [("a",), ("rowid",)]),
        ("CREATE TABLE t (a TEXT PRIMARY KEY) WITHOUT ROWID", [("a",)]),
        (
            "CREATE TABLE t (a, b, PRIMARY KEY (b, a)) without  rowid",
            [("b", "a")],
        ),
        (
            "CREATE TABLE t (a UNIQUE, b, UNIQUE (a, b))",
            [("a", "b"), ("a",), ("rowid",)],
        ),
        ("CREATE TABLE t (a); CREATE INDEX i ON t (a)", [("rowid",)]),
        (
            "CREATE TABLE t (a); CREATE UNIQUE INDEX i ON t (lower(a))",
            [(None,), ("rowid",)],
        ),
        # A column of this name hides the real one.
        ("CREATE TABLE t (rowid TEXT, a UNIQUE)", [("a",)]),
    ],
)
def test_the_unique_indexes_of_a_table(
    sql: str, columns: list[tuple[str | None, ...]]
) -> None:
    assert keys(described(sql)) == columns


@pytest.mark.parametrize(
    ("condition", "pins"),
    [
        ("b IS NULL", (Pin("b", is_null=True),)),
        ("(B is null)", (Pin("b", is_null=True),)),
        ("B = 'x'", (Pin("b", value="x"),)),
        ("b > 1", ()),
        ("b IS NULL AND a > 1", ()),
    ],
)
def test_the_predicate_of_a_partial_index(
    condition: str, pins: tuple[Pin, ...]
) -> None:
    found = described(
        f"CREATE TABLE t (a, b); CREATE UNIQUE INDEX i ON t (a)\nwhere {condition}"
    )
    assert found.unique[0] == UniqueIndex("i", ("a",), predicate=condition, pins=pins)


@pytest.mark.parametrize(
    ("trigger", "refuses"),
    [
        ("g BEFORE UPDATE ON t", True),
        ("g UPDATE OF a ON t", True),
        ("g AFTER UPDATE OF a ON t", False),
        ("IF NOT EXISTS main . [an update] after\nupdate ON t", False),
        ("'it''s AFTER UPDATE' UPDATE ON t", True),
        ("after UPDATE ON t", True),
        ("g /* not */ AFTER UPDATE ON t", True),
        ("g AFTER INSERT ON t", False),
        ("g BEFORE DELETE ON t", False),
    ],
)
def test_a_trigger_may_refuse_updates(trigger: str, *, refuses: bool) -> None:
    found = described(
        f"CREATE TABLE t (a); CREATE TRIGGER {trigger} BEGIN SELECT 1; END"
    )
    assert found.updates_may_be_refused == refuses


def test_generated_columns_are_known_and_hidden_ones_are_not() -> None:
    found = described("CREATE TABLE t (a, b AS (a + 1), c AS (a) STORED)")
    assert [c.generated for c in found.columns.values()] == [False, True, True, False]
    assert found.visible == ("a", "b", "c")
    assert found.columns["rowid"].hidden
    virtual = described("CREATE VIRTUAL TABLE t USING fts5(a)")
    assert virtual.visible == ("a",)


def test_what_a_view_and_a_virtual_table_can_do() -> None:
    view = described("CREATE VIEW t AS SELECT 1 AS a")
    assert (
        view.supports_on_conflict_update,
        view.supports_returning,
        view.written_by_triggers,
    ) == (False, False, True)
    assert keys(view) == []
    virtual = described("CREATE VIRTUAL TABLE t USING fts5(a)")
    assert (virtual.supports_on_conflict_update, virtual.supports_returning) == (
        False,
        False,
    )
    assert not virtual.written_by_triggers
    assert not virtual.all_indexes_known


def test_a_table_without_a_definition_is_a_table() -> None:
    master = described("", name=("sqlite_master",))
    assert "tbl_name" in master.columns
    assert master.supports_on_conflict_update


def test_the_temporary_table_comes_first() -> None:
    both = "CREATE TABLE t (a); CREATE TEMP TABLE t (b)"
    assert described(both).visible == ("b",)
    assert described(both, name=("MAIN", "T")).visible == ("a",)


def test_names_are_found_as_sqlite_finds_them() -> None:
    found = described('CREATE TABLE "T" (a PRIMARY KEY)', name=("t",))
    assert keys(found) == [("a",), ("rowid",)]


@pytest.mark.parametrize("name", [("page_view",), ("main", "page_view")])
def test_a_table_that_is_not_there_is_refused_with_the_closest_name(
    name: tuple[str, ...],
) -> None:
    with pytest.raises(UnknownTableError, match=r"\(did you mean 'page_views'\?\)"):
        described("CREATE TABLE page_views (a); CREATE TABLE users (a)", name=name)


def test_a_database_that_is_not_attached_has_no_tables() -> None:
    with pytest.raises(UnknownTableError, match=r"there is no table other\.t$"):
        described("CREATE TABLE t (a)", name=("other", "t"))


def test_every_statement_can_be_prepared() -> None:
    hostile = 'CREATE TABLE "a?""b\'$1" ("x?""" TEXT PRIMARY KEY, "\'" JSON, "?1" REAL)'
    found = described(hostile, name=("a?\"b'$1",))
    call: dict[str, Any] = {
        "key": {'x?"': "k"},
        "defaults": {"'": coalesce(F("'"), {}).merge({"?": 1}), "?1": F("?1") / 2},
        "where": greatest(F('x?"'), "?", None) > "a",
        "skip_unchanged": True,
        "returning": "*",
    }
    _, values = read(**call)
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(hostile)
        for statement in compile_call(plan(found, **call)).statements():
            connection.execute(f"EXPLAIN {statement.sql}", statement.arguments(values))
