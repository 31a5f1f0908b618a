"""
Hostile functions and operators in the caller's search_path never run.

For every function and operator that occurs in the statements of the library, a schema has
one for each signature that PostgreSQL has, and for signatures that would match better.
Each raises an error. The path is the worst there is: the hostile schema comes first, even
before pg_catalog.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import pytest

from aioupsert import (
    Excluded,
    F,
    UnknownTableError,
    coalesce,
    create_or_update,
    create_or_update_many,
    get_or_create,
    greatest,
    iter_create_or_update,
    length,
    lower,
    now,
)
from tests.support.databases import PostgresDatabase, connected, psycopg_connected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TABLES: Final = """
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE t (
  k varchar(20) PRIMARY KEY, n bigint DEFAULT 0, s smallint, x numeric(8, 2), c char(4),
  v varchar(9), j jsonb, at timestamptz, f real, flag boolean, other integer UNIQUE);
CREATE TABLE serial (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  k integer UNIQUE, n integer DEFAULT 0);
CREATE TABLE pair (a uuid, b date, n integer, PRIMARY KEY (a, b));
CREATE TABLE late (k varchar(20) UNIQUE DEFERRABLE, n integer DEFAULT 0);
CREATE TABLE bare (k varchar(20), n integer DEFAULT 0);
CREATE TABLE moods (k mood PRIMARY KEY, n integer);
CREATE TABLE watched (k integer PRIMARY KEY, n integer DEFAULT 0);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE TRIGGER g BEFORE UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION g()
"""


def rows(number: int, key: str = "k", **more: Any) -> list[dict[str, Any]]:
    return [{key: f"k{n}", "n": n, **more} for n in range(number)]


async def single(conn: Any, **options: Any) -> None:
    for v in range(3):
        await create_or_update(
            *(conn, "t"),
            key={"k": "a"},
            defaults={
                "n": F("n") + 1,
                "s": v,
                "x": F("n") / 2,
                "c": "c",
                "v": lower(F("v").concat("X")),
                "j": F("j").merge({"a": v}),
                "f": 1.5,
                "flag": True,
                "other": F("n") % 3 - 1,
            },
            where=F("n").in_([0, 1, 2])
            & (coalesce(length(F("v")), 0) < 9)
            & (greatest(F("n"), F("x")) >= 0)
            & (F("n") != 77)
            & (F("v").is_null() | (F("v") <= "z")),
            touch={"at": now()},
            returning="*",
            **options,
        )


async def unchanged(conn: Any) -> None:
    for _ in range(2):
        await create_or_update(
            *(conn, "t"),
            key={"k": "b"},
            defaults={"c": "c", "v": "v", "n": 1},
            skip_unchanged=True,
        )


async def exact(conn: Any) -> None:
    await single(conn, strategy="exact")


async def native(conn: Any) -> None:
    await single(conn, strategy="on_conflict")


async def blocked(conn: Any) -> None:
    await get_or_create(conn, "t", key={"k": "one"}, defaults={"other": 5})
    with contextlib.suppress(Exception):
        await create_or_update(conn, "t", key={"k": "two"}, defaults={"other": 5})


async def locked(conn: Any) -> None:
    await create_or_update(
        *(conn, "bare"),
        key={"k": "a"},
        defaults={"n": F("n") + 1},
        without_unique_index="lock",
    )


async def deferrable(conn: Any) -> None:
    for _ in range(2):
        await create_or_update(conn, "late", key={"k": "a"}, defaults={"n": F("n") + 1})


async def found(conn: Any) -> None:
    for _ in range(2):
        await get_or_create(conn, "serial", key={"k": 1}, defaults={"n": 1})


async def enum(conn: Any) -> None:
    for number in (2, 6):
        moods = [{"k": "glad" if n % 2 else "sad", "n": n} for n in range(number)]
        await create_or_update_many(conn, "moods", moods, key="k")


async def missing(conn: Any) -> None:
    with pytest.raises(UnknownTableError):
        await get_or_create(conn, "tt", key={"k": 1})


async def many(conn: Any) -> None:
    for number in (3, 12):
        await create_or_update_many(conn, "t", rows(number), key="k")
        await create_or_update_many(
            *(conn, "t"),
            rows(number, v="x"),
            key="k",
            where=Excluded("n") >= F("n"),
            skip_unchanged=True,
        )
        results = iter_create_or_update(
            conn, "t", [*rows(number), *rows(2)], key="k", returning="n"
        )
        assert len([result async for result in results]) == number + 2


async def many_of_others(conn: Any) -> None:
    for number in (3, 12):
        for table in ("serial", "watched"):
            numbered = [{"k": n, "n": n} for n in range(number)]
            await create_or_update_many(conn, table, numbered, key="k")
        await create_or_update_many(
            *(conn, "serial"),
            [{"k": n % 4, "n": 1} for n in range(number)],
            key="k",
            update={"n": F("n") + Excluded("n")},
        )
        days = [
            {"a": f"{n:032x}", "b": f"2020-01-{n + 1:02}", "n": n}
            for n in range(number)
        ]
        await create_or_update_many(
            conn, "pair", days, key=("a", "b"), convert_text=True
        )


CALLS: Final[tuple[Callable[[Any], Awaitable[None]], ...]] = (
    *(single, unchanged, exact, native, blocked, locked, deferrable, found, enum),
    *(missing, many, many_of_others),
)

# Every signature of PostgreSQL's own, and each with types that would match better. What
# cannot be created, such as a function of a pseudo-type, is left out.
HOSTILE: Final = """
DO $do$
DECLARE
  r record; better text[]; how text;
  kinds text[] := '{int2,int4,int8,numeric,text,varchar,bpchar,name,oid,bool,jsonb,
    json,"\\"char\\"",uuid,date,timestamptz,regclass,record,xid,"int8[]","text[]"}';
  one text; other text;
  body text := 'AS $f$ BEGIN RAISE EXCEPTION ''hostile''; END $f$ LANGUAGE plpgsql';
BEGIN
  CREATE FUNCTION {schema}.op(a anyelement, b anyelement) RETURNS bool
    LANGUAGE plpgsql AS $f$ BEGIN RAISE EXCEPTION 'hostile'; END $f$;
  FOR r IN SELECT oprname, oprleft::regtype AS l, oprright::regtype AS r,
      oprresult::regtype AS result FROM pg_operator
    WHERE oprname = ANY ('{operators}'::text[]) AND oprleft <> 0
      AND oprnamespace = 'pg_catalog'::regnamespace
    UNION SELECT n, k::regtype, k::regtype, 'bool'::regtype
    FROM unnest('{operators}'::text[]) n, unnest(kinds) k
  LOOP
    BEGIN
      how := 'op_' || md5(r::text);
      EXECUTE format('CREATE FUNCTION {schema}.%I(a %s, b %s) RETURNS %s %s',
        how, r.l, r.r, r.result, body);
      EXECUTE format('CREATE OPERATOR {schema}.%s (LEFTARG = %s, RIGHTARG = %s,'
        ' FUNCTION = {schema}.%I)', r.oprname, r.l, r.r, how);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
  FOR r IN SELECT proname, pg_get_function_identity_arguments(oid) AS args,
      CASE WHEN proretset THEN 'SETOF ' ELSE '' END || prorettype::regtype AS result
    FROM pg_proc WHERE proname = ANY ('{functions}'::text[])
      AND pronamespace = 'pg_catalog'::regnamespace
    UNION SELECT n, k, 'text' FROM unnest('{functions}'::text[]) n, unnest(kinds) k
    UNION SELECT n, k || ', ' || l, 'text'
    FROM unnest('{functions}'::text[]) n, unnest(kinds) k, unnest(kinds) l
    WHERE k IN ('text', 'name', 'varchar', 'int8') AND l IN ('text', 'name', 'int4')
  LOOP
    BEGIN
      EXECUTE format('CREATE FUNCTION {schema}.%I(%s) RETURNS %s %s',
        r.proname, r.args, r.result, body);
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END $do$
"""


def names(statements: list[str]) -> tuple[set[str], set[str]]:
    """The functions and operators that occur in statements."""
    texts = [re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "", sql) for sql in statements]
    functions = {
        name for text in texts for name in re.findall(r"\b([a-z_]\w*)\(", text)
    }
    operators = {
        name
        for text in texts
        for name in re.findall(r"(?:(?<=\s)|(?<=\.))[-+*/<>=~!&|%#@^?]+(?=[\s)])", text)
    }
    return functions, operators - {"*"} | {"*", "=", "<>"}


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.usefixtures("small_copies")
async def test_no_hostile_function_or_operator_runs(
    db: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await db.run(TABLES)
    with caplog.at_level("DEBUG", "aioupsert"):
        for call in CALLS:
            await call(db.handle)
    functions, operators = names(caplog.messages)
    assert {"json_agg", "quote_ident", "unnest", "count", "pg_typeof"} <= functions
    assert {"=", "||", "*<>", "<", "+", "/", "%"} <= operators
    hostile = f"{db.schema}_hostile"
    await db.run(f"CREATE SCHEMA {hostile}")
    try:
        sql = HOSTILE.replace("{schema}", hostile)
        sql = sql.replace("{functions}", f"{{{','.join(functions)}}}")
        quoted = ",".join(f'"{name}"' for name in operators)
        await db.run(sql.replace("{operators}", f"{{{quoted}}}"))
        await db.run("TRUNCATE t, serial, pair, late, bare, moods, watched")
        path = f"{hostile}, pg_catalog, {db.schema}"
        connect = connected if db.kind == "asyncpg" else psycopg_connected
        async with connect(db._dsn, db.schema) as conn:
            # Before, as asyncpg asks about a type by a query of its own.
            await enum(conn)
            if isinstance(conn, asyncpg.Connection):
                await conn.fetch("SELECT $1::bigint[], $2::text[]", [1], ["a"])
            await conn.execute(f"SET search_path = {path}")
            for text in ("1 = 1", "'a'::varchar || 'b'::varchar", "quote_ident('a')"):
                with pytest.raises(Exception, match="hostile"):
                    await conn.execute(f"SELECT {text}")
            for call in CALLS:
                await call(conn)
    finally:
        await db.run(f"DROP SCHEMA {hostile} CASCADE")
