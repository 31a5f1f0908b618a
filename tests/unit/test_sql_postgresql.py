"""Plans and catalogs of PostgreSQL as text; no server takes part."""

import dataclasses
import json
import re
from typing import Any, Final

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
    lower,
    now,
)
from aioupsert._engines.commands import Command
from aioupsert._engines.postgresql.catalog import reflect, reflect_any
from aioupsert._engines.postgresql.citus import EXACT_BECAUSE
from aioupsert._engines.postgresql.compiler import compile_call
from aioupsert._engines.sql import CompiledStatement
from aioupsert._plan import Plan
from aioupsert._plan.schema import Column, Table, UniqueIndex
from tests.unit.plans import column, drawn_calls, flat, plan, read, table

HITS = table(column("hits", default="0"), column("name", "text"))


def single(made: Plan) -> CompiledStatement:
    statement = compile_call(made).single
    assert statement is not None
    return statement


def text(statement: CompiledStatement) -> str:
    """The statement, without the qualification of functions and operators."""
    sql = re.sub(r"OPERATOR\(pg_catalog\.([^)]+)\)", r"\1", statement.sql)
    return re.sub(r"pg_catalog\.(\w+\()", r"\1", sql)


# --- Whole statements -----------------------------------------------------------------


def test_the_single_statement() -> None:
    made = plan(HITS, defaults={"name": "x"}, returning="hits")
    assert text(single(made)) == flat(
        """
        WITH "aioupsert_updated" AS (
            UPDATE "s"."t" AS "t" SET "name" = $1::pg_catalog.text
            WHERE "t"."id" = $2::pg_catalog.int4
            RETURNING 2, "t"."hits"
        ), "aioupsert_inserted" AS (
            INSERT INTO "s"."t" AS "t" ("id", "name")
            SELECT $2::pg_catalog.int4, $1::pg_catalog.text
            WHERE NOT EXISTS (SELECT FROM "aioupsert_updated")
            ON CONFLICT DO NOTHING
            RETURNING 1, "t"."hits"
        )
        SELECT * FROM "aioupsert_updated" UNION ALL SELECT * FROM "aioupsert_inserted"
        """
    )


def test_the_single_statement_of_a_conditional_call() -> None:
    made = plan(
        HITS,
        defaults={"name": "x"},
        where=F("hits") < 3,
        touch={"hits": 5},
        returning="id",
    )
    assert text(single(made)) == flat(
        """
        WITH "aioupsert_found" ("passes", "changes", "c1") AS (
            SELECT (("t"."hits" < $1::pg_catalog.int4) IS TRUE),
                (ROW("t"."name"::pg_catalog.text)::pg_catalog.record
                    *<> ROW(($2::pg_catalog.text)::pg_catalog.text)::pg_catalog.record),
                "t"."id"
            FROM "s"."t" AS "t" WHERE "t"."id" = $3::pg_catalog.int4
        ), "aioupsert_updated" AS (
            UPDATE "s"."t" AS "t"
            SET "name" = $2::pg_catalog.text, "hits" = $4::pg_catalog.int4
            WHERE "t"."id" = $3::pg_catalog.int4
                AND (("t"."hits" < $1::pg_catalog.int4) IS TRUE)
                AND (ROW("t"."name"::pg_catalog.text)::pg_catalog.record
                    *<> ROW(($2::pg_catalog.text)::pg_catalog.text)::pg_catalog.record)
            RETURNING 2, "t"."id"
        ), "aioupsert_inserted" AS (
            INSERT INTO "s"."t" AS "t" ("id", "name", "hits")
            SELECT $3::pg_catalog.int4, $2::pg_catalog.text, $4::pg_catalog.int4
            WHERE NOT EXISTS (SELECT FROM "aioupsert_found") AND NOT EXISTS (SELECT FROM "aioupsert_updated")
            ON CONFLICT DO NOTHING
            RETURNING 1, "t"."id"
        )
        SELECT CASE WHEN "passes" THEN 3 ELSE 4 END, "c1" FROM "aioupsert_found"
            WHERE NOT ("passes" AND "changes") AND NOT EXISTS (SELECT FROM "aioupsert_updated")
        UNION ALL SELECT * FROM "aioupsert_updated" UNION ALL SELECT * FROM "aioupsert_inserted"
        """
    )


def test_the_single_statement_that_never_updates() -> None:
    made = plan(HITS, create_defaults={"name": "x"}, returning="id")
    assert text(single(made)) == flat(
        """
        WITH "aioupsert_found" ("passes", "changes", "c1") AS (
            SELECT TRUE, FALSE, "t"."id"
            FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4
        ), "aioupsert_inserted" AS (
            INSERT INTO "s"."t" AS "t" ("id", "name")
            SELECT $1::pg_catalog.int4, $2::pg_catalog.text
            WHERE NOT EXISTS (SELECT FROM "aioupsert_found")
            ON CONFLICT DO NOTHING
            RETURNING 1, "t"."id"
        )
        SELECT CASE WHEN "passes" THEN 3 ELSE 4 END, "c1" FROM "aioupsert_found"
            WHERE NOT ("passes" AND "changes")
        UNION ALL SELECT * FROM "aioupsert_inserted"
        """
    )


PROPOSING: Final = table(
    column("hits", default="0", unconstrained=True),
    column("name", "text"),
    may_propose=True,
)


def test_a_row_is_proposed_at_once_at_one_isolation_level() -> None:
    made = plan(PROPOSING, defaults={"hits": F("hits") + 1, "name": "x"})
    call = compile_call(made)
    assert text(single(made)) == flat(
        """
        INSERT INTO "s"."t" AS "t" ("id", "hits", "name")
        SELECT $1::pg_catalog.int4,
            (CAST((0) AS pg_catalog.int4) + $2::pg_catalog.int4), $3::pg_catalog.text
        WHERE current_setting('transaction_isolation') = 'read committed'
            AND E'"s"."t"'::pg_catalog.regclass = 4711::pg_catalog.oid
        ON CONFLICT ("id") DO UPDATE
        SET "hits" = ("t"."hits" + $2::pg_catalog.int4), "name" = $3::pg_catalog.text
        RETURNING CASE WHEN "t".xmax = 0 THEN 1 ELSE 2 END
        """
    )
    of_parts = single(plan(HITS, defaults={"hits": F("hits") + 1, "name": "x"}))
    assert [(step.sql, step.when) for step in call.statements()[1:2]] == [
        (of_parts.sql, "at REPEATABLE READ and above")
    ]


def test_the_native_upsert() -> None:
    made = plan(
        HITS, defaults={"name": "x"}, where=F("hits") < 3, strategy="on_conflict"
    )
    assert text(single(made)) == flat(
        """
        INSERT INTO "s"."t" AS "t" ("id", "name")
        SELECT $1::pg_catalog.int4, $2::pg_catalog.text WHERE TRUE
        ON CONFLICT ("id") DO UPDATE SET "name" = $2::pg_catalog.text
        WHERE (("t"."hits" < $3::pg_catalog.int4) IS TRUE) AND TRUE
        RETURNING CASE WHEN "t".xmax = 0 THEN 1 ELSE 2 END
        """
    )


def test_the_native_upsert_asks_for_the_row_before_where_it_can() -> None:
    newer = dataclasses.replace(HITS, supports_returning_old=True)
    made = plan(newer, defaults={"name": "x"}, strategy="on_conflict")
    returning = 'RETURNING CASE WHEN old."id" IS NULL THEN 1 ELSE 2 END'
    assert text(single(made)).endswith(returning)


def test_the_native_upsert_without_a_condition_updates_what_is_there() -> None:
    made = plan(HITS, defaults={"name": "x"}, strategy="on_conflict")
    assert 'DO UPDATE SET "name" = $2::pg_catalog.text RETURNING' in text(single(made))


def test_the_native_upsert_that_never_updates() -> None:
    made = plan(HITS, create_defaults={"hits": F("hits")}, strategy="on_conflict")
    assert text(single(made)) == flat(
        """
        INSERT INTO "s"."t" AS "t" ("id", "hits")
        SELECT $1::pg_catalog.int4, CAST((0) AS pg_catalog.int4)
        WHERE E'"s"."t"'::pg_catalog.regclass = 4711::pg_catalog.oid
        ON CONFLICT ("id") DO NOTHING
        RETURNING CASE WHEN "t".xmax = 0 THEN 1 ELSE 2 END
        """
    )


def test_the_classic_steps() -> None:
    made = plan(
        HITS,
        defaults={"hits": F("hits") + 1},
        where=F("hits") < 3,
        strategy="exact",
        returning="hits",
    )
    program = compile_call(made)
    update, find, insert, again, probe, lock = program.statements()
    assert (program.single, program.lock) == (None, None)
    assert text(update) == flat(
        """
        UPDATE "s"."t" AS "t" SET "hits" = ("t"."hits" + $1::pg_catalog.int4)
        WHERE "t"."id" = $2::pg_catalog.int4
            AND (("t"."hits" < $3::pg_catalog.int4) IS TRUE)
        RETURNING 2, "t"."hits"
        """
    )
    assert text(find) == flat(
        """
        SELECT CASE WHEN NOT (("t"."hits" < $1::pg_catalog.int4) IS TRUE) THEN 4
            WHEN NOT TRUE THEN 3 ELSE 2 END, "t"."hits"
        FROM "s"."t" AS "t" WHERE "t"."id" = $2::pg_catalog.int4
        """
    )
    # The default is the described table's, and so must be the table.
    assert text(insert) == flat(
        """
        INSERT INTO "s"."t" AS "t" ("id", "hits")
        SELECT $1::pg_catalog.int4, (CAST((0) AS pg_catalog.int4) + $2::pg_catalog.int4)
        WHERE E'"s"."t"'::pg_catalog.regclass = 4711::pg_catalog.oid
        RETURNING 1, "t"."hits"
        """
    )
    assert text(again) == text(insert).replace(
        " RETURNING", " ON CONFLICT DO NOTHING RETURNING"
    )
    assert text(probe) == flat(
        """
        SELECT current_setting('transaction_isolation'),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4
                AND (TRUE))
        """
    )
    assert text(lock) == flat(
        """
        SELECT 1 FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4
        FOR NO KEY UPDATE OF "t"
        """
    )


def test_the_probe_asks_for_every_row_that_may_be_in_the_way() -> None:
    indexes = (
        UniqueIndex("its own", ("id",)),
        UniqueIndex("by name", ("name", "hits")),
        UniqueIndex("partial", ("name",), predicate="hits > 0"),
        UniqueIndex("of an expression", ("name", None), (None, "(hits + 1)")),
        UniqueIndex("of another collation", ("name", None)),
        UniqueIndex("of what is computed", ("at",)),
        UniqueIndex("of what is not given", ("other",)),
    )
    relation = table(
        column("name", "text"),
        column("hits"),
        column("at", "other"),
        column("other"),
        unique=indexes,
    )
    made = plan(relation, defaults={"name": "x", "hits": 1, "at": now()})
    assert text(compile_call(made).probe) == flat(
        """
        SELECT current_setting('transaction_isolation'),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."id" = $1::pg_catalog.int4
                AND (TRUE)),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."name" = $2::pg_catalog.text
                AND "t"."hits" = $3::pg_catalog.int4 AND (TRUE)),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."name" = $2::pg_catalog.text
                AND (hits > 0)
                AND (SELECT hits > 0 FROM (SELECT $3::pg_catalog.int4 AS "hits") AS "t")),
            EXISTS (SELECT FROM "s"."t" AS "t" WHERE "t"."name" = $2::pg_catalog.text
                AND ((hits + 1)) = (SELECT (hits + 1)
                    FROM (SELECT $3::pg_catalog.int4 AS "hits") AS "t") AND (TRUE))
        """
    )


def test_the_lock_is_of_the_key() -> None:
    bare = table(column("name", "text"), column("at", "other"), unique=())
    made = plan(
        bare,
        key={"id": 1, "name": "x", "at": "y"},
        defaults={},
        without_unique_index="lock",
    )
    program = compile_call(made)
    assert program.single is None
    assert program.lock is not None
    # Equal times may be written differently, so they take no part.
    assert text(program.lock) == flat(
        """
        SELECT current_setting('transaction_isolation'),
            CASE WHEN current_setting('transaction_isolation') = 'read committed'
            THEN CASE WHEN pg_advisory_xact_lock_shared(4711::pg_catalog.int8) IS NOT NULL
                THEN pg_advisory_xact_lock(hashtextextended(
                coalesce($1::pg_catalog.int4::pg_catalog.text, '') || '/'
                || coalesce($2::pg_catalog.text::pg_catalog.text, ''), 4711)) END END
        """
    )


def test_the_lock_of_a_key_without_texts_is_of_the_table() -> None:
    made = plan(table(unique=()), key={"id": None}, without_unique_index="lock")
    lock = compile_call(made).lock
    assert lock is not None
    assert "hashtextextended('', 4711)" in text(lock)


def test_an_insert_that_must_queue_up_locks_first() -> None:
    queued = table(needs_key_lock=True, exact_because="it has an exclusion constraint")
    assert text(compile_call(plan(queued)).insert) == flat(
        """
        WITH "aioupsert_lock" AS MATERIALIZED (
            SELECT CASE WHEN pg_advisory_xact_lock_shared(4711::pg_catalog.int8) IS NOT NULL
                THEN pg_advisory_xact_lock(hashtextextended(
                coalesce($1::pg_catalog.int4::pg_catalog.text, ''), 4711)) END
        )
        INSERT INTO "s"."t" AS "t" ("id") SELECT $1::pg_catalog.int4 FROM "aioupsert_lock"
        RETURNING 1
        """
    )


@pytest.mark.parametrize(
    "name",
    ["aioupsert_updated", "aioupsert_inserted", "aioupsert_found", "aioupsert_lock"],
)
def test_no_part_of_a_statement_hides_the_table(name: str) -> None:
    about = {"name": (name,), "needs_key_lock": True}
    made = plan(table(column("a"), **about), defaults={"a": 1}, skip_unchanged=True)
    program = compile_call(made)
    for statement in (single(made), program.insert):
        assert f'"{name}" AS "t"' in text(statement)
        assert not re.search(rf'(WITH|,) "{name}" ', text(statement))


def test_statements_are_listed_in_their_order() -> None:
    program = compile_call(plan(HITS, defaults={"name": "x"}, skip_unchanged=True))
    steps = (
        program.single,
        program.update,
        program.find,
        program.insert,
        program.insert_or_nothing,
        program.probe,
        program.lock_row,
    )
    assert program.statements() == steps
    assert [step.when for step in program.statements()] == [
        "first",
        "when a concurrent call got in between",
        "when a concurrent call got in between, if nothing was updated",
        "when the row does not exist",
        "when the insert fails again",
        "when the insert fails again",
        "when nothing was updated several times",
    ]


def test_what_looks_at_a_proposed_row_is_what_was_described() -> None:
    described = dataclasses.replace(PROPOSING, shape=(3, 0, False, False, True, False))
    made = plan(described, defaults={"name": "x"})
    guard = flat(
        """
        EXISTS (SELECT FROM pg_catalog.pg_class AS c
            WHERE c.oid = E'"s"."t"'::pg_catalog.regclass AND c.oid = 4711::pg_catalog.oid
            AND c.relnatts = 3::pg_catalog.int2 AND c.relchecks = 0::pg_catalog.int2
            AND NOT c.relhastriggers AND NOT c.relhassubclass AND c.relhasrules
            AND NOT c.relrowsecurity)
        """
    )
    assert f" AND {guard} ON CONFLICT" in text(single(made))
    # Beside a foreign key, which is a trigger, another one is looked for itself.
    described = dataclasses.replace(PROPOSING, shape=(3, 0, True, False, False, False))
    triggers = flat(
        """
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid = c.oid
            AND g.tgenabled <> 'D' AND ((g.tgtype & 7::pg_catalog.int2) = 7
            OR (g.tgtype & 5::pg_catalog.int2) = 4))
        """
    )
    assert triggers in text(single(plan(described, defaults={"name": "x"})))


# --- Parts ----------------------------------------------------------------------------


def test_a_null_key_is_asked_for_as_null_and_written_as_null() -> None:
    made = plan(HITS, key={"name": None}, defaults={"hits": 1})
    statement = single(made)
    assert 'WHERE "t"."name" IS NULL RETURNING' in text(statement)
    assert list(statement.arguments([None, 5])) == [5, None]


def test_a_value_used_twice_is_bound_once() -> None:
    made = plan(HITS, defaults={"hits": 1})
    assert sorted(single(made).arguments(["key", "value"])) == ["key", "value"]


def test_a_key_is_rounded_as_its_column_but_has_one_place() -> None:
    rounded = table(column("n", "number", type="numeric", key_type="numeric(5,2)"))
    made = plan(rounded, key={"n": 1}, without_unique_index="allow")
    statement = single(made)
    assert '"t"."n" = $1::numeric(5,2)' in text(statement)
    assert "SELECT $1::numeric WHERE" in text(statement)


def test_json_is_encoded_here_and_other_containers_by_the_driver() -> None:
    kinds = table(
        column("doc", "json"), column("tags", "other", type="pg_catalog._text")
    )
    value = {"doc": {"a": "ü"}, "tags": ["b"]}
    made = plan(
        kinds, key={"doc": {"k": 1}}, defaults=value, without_unique_index="allow"
    )
    statement = single(made)
    assert '"tags" = $2::pg_catalog._text' in text(statement)
    assert '"doc" = $1::pg_catalog.text::pg_catalog.jsonb' in text(statement)
    arguments = statement.arguments([{"k": 1}, {"a": "ü"}, ["b"]])
    assert list(arguments) == ['{"a":"ü"}', ["b"], '{"k":1}']


def test_what_is_unchanged_is_compared_as_stored_and_padded_text_as_text() -> None:
    kinds = table(
        column("a"),
        column(
            "code", "text", type="pg_catalog.bpchar", key_type="c", storage="bpchar"
        ),
    )
    made = plan(kinds, defaults={"a": 1, "code": "x"}, skip_unchanged=True)
    assert (
        '(ROW("t"."a"::pg_catalog.int4, "t"."code"::c::pg_catalog.text)'
        "::pg_catalog.record *<> ROW(($1::pg_catalog.int4)::pg_catalog.int4,"
        " ($2::pg_catalog.bpchar)::c::pg_catalog.text)::pg_catalog.record)"
    ) in text(single(made))


def test_default_is_the_keyword_on_update_and_left_out_on_insert() -> None:
    sql = text(single(plan(HITS, defaults={"hits": DEFAULT, "name": DEFAULT})))
    assert 'SET "hits" = DEFAULT, "name" = DEFAULT' in sql
    assert '("id") SELECT' in sql
    only = table(unique=())
    made = plan(only, create_defaults={"id": DEFAULT}, without_unique_index="allow")
    assert 'INSERT INTO "s"."t" AS "t" SELECT  WHERE' in text(single(made))


CALLS = {
    "quotes": (("s", 'a"b'), 'a"b', '"s"."a""b" AS "t"'),
    "a placeholder": (("$1",), "?", '"$1" AS "t"'),
    "a statement": (("t; DROP TABLE t --",), "x", '"t; DROP TABLE t --" AS "t"'),
}


@pytest.mark.parametrize(("name", "of_column", "written"), CALLS.values(), ids=CALLS)
def test_names_are_quoted(name: tuple[str, ...], of_column: str, written: str) -> None:
    made = plan(table(column(of_column), name=name), defaults={of_column: F(of_column)})
    sql = text(single(made))
    assert written in sql
    assert '"{}" = '.format(of_column.replace('"', '""')) in sql


def test_the_guard_quotes_a_name_in_a_text() -> None:
    relation = table(column("a", default="1"), name=("it's", 'a"\\b'))
    sql = text(single(plan(relation, defaults={"a": F("a")})))
    assert r"""E'"it''s"."a""\\b"'::pg_catalog.regclass = 4711""" in sql


STORED: Final = '"t"."n"'


def not_zero(divisor: str) -> str:
    """How a divisor is written."""
    return (
        "(SELECT CASE WHEN n.v = 0 THEN NULL ELSE n.v END"
        f" FROM (SELECT {divisor} AS v OFFSET 0) AS n)"
    )


def value_of(expression: Any) -> str:
    """How an expression about the stored row is written."""
    kinds = table(
        column("i"),
        column("n", "number"),
        column("t", "text"),
        column("u", "text"),
        column("doc", "json"),
        column("flag", "boolean"),
        column("out", "other"),
    )
    update = compile_call(plan(kinds, defaults={"out": expression})).update
    assert update is not None
    found = re.search(r'SET "out" = (.*) WHERE "t"."id"', text(update))
    assert found is not None
    return found[1].replace("::pg_catalog.", "::")


@pytest.mark.parametrize(
    ("expression", "written"),
    [
        (F("i") + 1, '("t"."i" + $1::int4)'),
        (F("i") / F("n"), f'("t"."i" / {not_zero(STORED)})'),
        (F("i") % 2, f'("t"."i" % {not_zero("$1::int4")})'),
        (F("i") / SQL("x"), '("t"."i" / NULLIF((x), 0))'),
        (func("f", F("i")).in_([1.5, 2]), '(f("t"."i") IN ($1::float8, $2::int4))'),
        (F("t") < "x", '(("t"."t" COLLATE "C") < ($1::text COLLATE "C"))'),
        (F("i") < 2, '("t"."i" < $1::int4)'),
        (F("i").in_([1, 2]), '("t"."i" = ANY ($1::int8[]))'),
        (F("i").in_([1.5, 2]), '("t"."i" = $1::float8 OR "t"."i" = $2::int4)'),
        (F("i").in_([]), "FALSE"),
        (F("i").is_null(), '("t"."i" IS NULL)'),
        (~F("flag"), '(NOT "t"."flag")'),
        (F("flag") & True, '("t"."flag" AND $1::bool)'),
        (coalesce(F("i"), 0), 'coalesce("t"."i", $1::int4, NULL)'),
        (greatest(F("i"), 1), 'greatest("t"."i", $1::int4)'),
        (
            greatest(F("t"), F("u")),
            'greatest(("t"."t" COLLATE "C"), ("t"."u" COLLATE "C"))',
        ),
        (lower(F("t")), 'lower("t"."t" COLLATE "C")'),
        (
            F("t").concat(F("i"), "x"),
            '("t"."t"::text || "t"."i"::text || $1::text::text)',
        ),
        (now(), "now()"),
        (func("f", "a", F("t"), 1), 'f($1, "t"."t", $2::int4)'),
        (SQL("{} ?| {}", F("doc"), ["a"]), '("t"."doc" ?| $1)'),
        (SQL("{{}}"), "({})"),
        (F("t").concat(func("f", "a")), '("t"."t"::text || f($1)::text)'),
        (Excluded("id"), "$1::int4"),
    ],
    ids=repr,
)
def test_an_expression_is_written_so_that_both_engines_agree(
    expression: Any, written: str
) -> None:
    assert value_of(expression) == written


def test_merging_gives_what_jsonb_gives_for_objects() -> None:
    one, other = '("t"."doc")::jsonb', "($1::text::jsonb)::jsonb"
    assert value_of(F("doc").merge({"a": 1})) == (
        "(SELECT CASE WHEN m.one IS NULL OR m.other IS NULL THEN NULL"
        " WHEN jsonb_typeof(m.one) = 'object' AND jsonb_typeof(m.other) = 'object'"
        " THEN m.one || m.other ELSE m.other END"
        f" FROM (SELECT {one} AS one, {other} AS other) AS m)"
    )


# --- Any plan -------------------------------------------------------------------------

# Names and texts in quotes, in which a placeholder is none.
_QUOTED = re.compile(r'"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'')


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(drawn_calls())
def test_the_placeholders_are_numbered_as_the_arguments(
    drawn: tuple[Table, dict[str, Any]],
) -> None:
    relation, call = drawn
    _, values = read(**call)
    for statement in compile_call(plan(relation, **call)).statements():
        used = {
            int(n) for n in re.findall(r"\$(\d+)", _QUOTED.sub("", text(statement)))
        }
        assert used == set(range(1, len(statement.arguments(values)) + 1))


# --- The catalog ----------------------------------------------------------------------

A_COLUMN: dict[str, Any] = {
    "name": "a",
    "type_id": "25",
    "catalog": "pg_catalog",
    "type": "text",
    "cast": "pg_catalog.text",
    "exact": "text",
    "typmod": -1,
    "collation": None,
    "may_draw": True,
    "primary": False,
    "generated": False,
    "identity": "",
    "not_null": False,
    "category": "S",
    "array": True,
    "unchecked": False,
    "default": None,
}
A_TABLE: dict[str, Any] = {
    "oid": "4711",
    "kind": "r",
    "returns_old": False,
    "may_insert": True,
    "may_copy": True,
    "children": False,
    "foldable": True,
    "is_citus": False,
    "remote": False,
    "xmax": True,
    "rules": False,
    "instead": False,
    "before": False,
    "statement": False,
    "refuses": False,
    "columns": [A_COLUMN],
    "unique": None,
}
AN_INDEX: dict[str, Any] = {
    "name": "i",
    "columns": ["a"],
    "nulls_distinct": True,
    "predicate": None,
    "deferrable": False,
    "coarser": False,
    "exclusion": False,
    "equality": None,
}


def answered(found: dict[str, Any]) -> Table:
    """The description, when the catalog answers this."""
    steps = reflect_any(("s", "t"))
    send = next(steps)
    assert (send.arguments, send.kind) == (['"s"."t"'], "catalog")
    assert "pg_catalog.to_regclass($1::" in send.sql
    with pytest.raises(StopIteration) as stop:
        steps.send([(json.dumps(found),)])
    described: Table = stop.value.value
    return described


def test_a_table_that_is_not_there_is_refused_with_the_closest_name() -> None:
    steps = reflect(("page_view",))
    next(steps)
    steps.send([])
    assert isinstance(steps.send([]), Command)
    with pytest.raises(
        UnknownTableError, match=r"page_view \(did you mean 'page_views'"
    ):
        steps.send([("users",), ("page_views",)])


@pytest.mark.parametrize(
    ("about", "why"),
    [
        ({}, None),
        ({"instead": True, "rules": True}, "it is a view with INSTEAD OF triggers"),
        ({"rules": True}, "it has rules"),
        ({"kind": "m"}, "it is a materialized view"),
        ({"before": True}, "it has a BEFORE INSERT trigger"),
        ({"statement": True}, "it has a trigger for each INSERT statement"),
        ({"may_insert": False}, "this role may not insert into it"),
        ({"unique": [AN_INDEX]}, None),
        (
            {"unique": [AN_INDEX | {"exclusion": True}]},
            "it has an exclusion constraint",
        ),
        (
            {"unique": [AN_INDEX, AN_INDEX | {"deferrable": True}]},
            "it has a deferrable unique constraint",
        ),
    ],
    ids=repr,
)
def test_why_a_relation_needs_the_classic_steps(
    about: dict[str, Any], why: str | None
) -> None:
    assert answered(A_TABLE | about).exact_because == why


def test_a_relation_without_columns() -> None:
    bare = answered(A_TABLE | {"columns": None})
    assert (dict(bare.columns), bare.unique) == ({}, ())


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, {"family": "text", "storage": "text"}),
        (
            {"collation": "public.ci"},
            {"storage": "other", "collation": "public.ci"},
        ),
        (
            {"type": "citext", "catalog": "public"},
            {"family": "text", "storage": "other"},
        ),
        (
            {"type": "text", "catalog": "public"},
            {"family": "other", "storage": "other"},
        ),
        ({"type": "int8"}, {"family": "integer", "storage": "integer"}),
        ({"type": "bool"}, {"family": "boolean", "storage": "boolean"}),
        ({"type": "jsonb"}, {"family": "json", "storage": "other"}),
        ({"type": "inet"}, {"family": "other", "storage": "other"}),
        (
            {"type": "varchar", "typmod": 7},
            {"length": 3, "key_type": "pg_catalog.text"},
        ),
        ({"type": "varchar"}, {"length": None}),
        (
            {"type": "numeric", "typmod": 5, "exact": "numeric(5,2)"},
            {"key_type": "numeric(5,2)", "length": None},
        ),
        ({"type": "numeric", "exact": "numeric"}, {"key_type": "pg_catalog.text"}),
        ({"identity": "a"}, {"always_identity": True}),
        ({"identity": "d"}, {"always_identity": False}),
        ({"generated": True}, {"generated": True}),
        ({"default": "now()"}, {"default": "now()"}),
    ],
    ids=repr,
)
def test_a_column_is_described(about: dict[str, Any], expected: dict[str, Any]) -> None:
    described: Column = answered(A_TABLE | {"columns": [A_COLUMN | about]}).columns["a"]
    assert {name: getattr(described, name) for name in expected} == expected


def test_an_exclusion_constraint_of_equalities_is_like_a_unique_index() -> None:
    for equality, columns in ((True, ("a",)), (False, (None,))):
        index = AN_INDEX | {"exclusion": True, "equality": equality}
        described = answered(A_TABLE | {"unique": [index]})
        assert [unique.columns for unique in described.unique] == [columns]
        assert described.needs_key_lock


# --- Locks of others --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock_timeout", "exact_because", "limited"),
    [(0, None, False), (50, None, True), (50, EXACT_BECAUSE, False)],
)
def test_a_statement_may_limit_how_long_it_waits_for_locks(
    lock_timeout: int, exact_because: str | None, *, limited: bool
) -> None:
    """Not on Citus, whose servers would be sent a function of this one."""
    made = dataclasses.replace(
        plan(HITS, defaults={"name": "x"}),
        lock_timeout=lock_timeout,
        table=dataclasses.replace(HITS, exact_because=exact_because),
    )
    call = compile_call(made)
    for statement in (call.update, call.insert):
        assert statement is not None
        assert ("set_config('lock_timeout', '50', true)" in statement.sql) == limited
