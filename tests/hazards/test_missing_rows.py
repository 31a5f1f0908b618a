"""
Many missing rows, which one INSERT without ON CONFLICT creates, or none of them.

What it stores and returns is what single calls would; where it fails, as another client
has created a row meanwhile or two rows are equal by another index, it is as if it had not
been tried.
"""

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import BulkError, get_or_create, get_or_create_many
from aioupsert._engines.postgresql import bulk_steps
from tests.support.databases import Database, PostgresDatabase, fetched
from tests.support.engines import engine_on
from tests.support.servers import Server
from tests.support.sessions import clients, together, waiting
from tests.support.versions import created

TABLE: Final = """
    CREATE TABLE t (
        id int PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE, g int
    )
"""
SEEN: Final = """
    CREATE TABLE seen (name text);
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO seen VALUES (new.name);
        RETURN new;
    END $$;
    CREATE TRIGGER f {} INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()
"""
TABLES: Final = {
    "identity": TABLE,
    "no sequence": "CREATE TABLE t (name text PRIMARY KEY, g int)",
    "sequence that cycles": (
        "CREATE SEQUENCE s MAXVALUE 5 CYCLE; CREATE TABLE t"
        " (id int DEFAULT nextval('s'), name text PRIMARY KEY, g int)"
    ),
    "uuid": (
        "CREATE TABLE t (id uuid DEFAULT gen_random_uuid(), name text UNIQUE, g int)"
    ),
    "domain": (
        "CREATE DOMAIN d AS varchar(40) CHECK (value <> 'bad');"
        " CREATE TABLE t (id serial PRIMARY KEY, name d UNIQUE, g int)"
    ),
    "case-insensitive": (
        "CREATE COLLATION c (provider = icu, locale = 'und-u-ks-level2',"
        " deterministic = false);"
        " CREATE TABLE t (id serial, name text COLLATE c UNIQUE, g int)"
    ),
    "padded": "CREATE TABLE t (id serial, name char(9) UNIQUE, g int)",
    "second unique index": f"{TABLE}; CREATE UNIQUE INDEX ON t (g, name)",
    "deferrable": f"{TABLE}; ALTER TABLE t ADD UNIQUE (g, name) DEFERRABLE",
    "exclusion": f"{TABLE}; ALTER TABLE t ADD EXCLUDE (lower(name) WITH =)",
    "no unique index": "CREATE TABLE t (id serial, name text, g int)",
    "partitions": (
        "CREATE TABLE t (id serial, name text PRIMARY KEY, g int)"
        " PARTITION BY HASH (name);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    ),
    "trigger after": f"{TABLE}; {SEEN.format('AFTER')}",
    "trigger before": f"{TABLE}; {SEEN.format('BEFORE')}",
    "view": (
        f"{TABLE.replace(' t ', ' base ')};"
        " CREATE VIEW t AS SELECT id, name, g FROM base"
    ),
}


@pytest.fixture(autouse=True)
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_steps, "_MANY_MISSING", 3)
    monkeypatch.setattr(bulk_steps, "_MANY_TEXTS", 3)


async def one_by_one(db: Database, rows: list[dict[str, Any]], *key: str) -> list[Any]:
    return [
        await get_or_create(
            db.handle,
            "t",
            key={name: row[name] for name in key},
            defaults={name: row[name] for name in row if name not in key},
            without_unique_index="allow",
        )
        for row in rows
    ]


async def in_bulk(db: Database, rows: list[dict[str, Any]], *key: str) -> list[Any]:
    return await get_or_create_many(
        db.handle, "t", rows, key=key, without_unique_index="allow"
    )


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_rows_and_results_are_those_of_single_calls(
    db: Database, name: str
) -> None:
    names = ["Q", "m", "A", "old", "z", "A", "B", "older", "x y", "m"]
    rows = [{"name": n, "g": number} for number, n in enumerate(names)]
    # A view does not tell that a column takes the next value of a sequence.
    different = {"id"} if name in {"uuid", "view"} else set[str]()
    found: list[Any] = []
    for call in (one_by_one, in_bulk):
        await db.run(
            "DROP VIEW IF EXISTS t" if name == "view" else "DROP TABLE IF EXISTS t"
        )
        await db.run(
            "DROP TABLE IF EXISTS base, seen; DROP FUNCTION IF EXISTS f;"
            " DROP SEQUENCE IF EXISTS s; DROP DOMAIN IF EXISTS d;"
            " DROP COLLATION IF EXISTS c"
        )
        await db.run(TABLES[name])
        await db.run("INSERT INTO t (name) VALUES ('old'), ('older')")
        results = await call(db, rows, "name")
        await db.run("INSERT INTO t (name) VALUES ('new')")
        columns = [c for c in results[0].row if c not in different]
        found.append(
            (
                [(r.created, *(r.row[c] for c in columns)) for r in results],
                await db.query(f"SELECT {', '.join(columns)} FROM t ORDER BY name"),
            )
        )
    assert found[0] == found[1]


IDS: Final = {
    "int2": "id smallserial",
    "int4": "id serial",
    "int8": "id bigint GENERATED BY DEFAULT AS IDENTITY",
    "uuid": "id uuid DEFAULT md5(random()::text)::uuid",
    "domain": "id d DEFAULT 7",
    "text": "id text DEFAULT random()::text",
    "NULL": "id int",
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("returning", [["id"], ["g", "id"]])
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_ids_are_read_as_the_driver_reads_them(
    db: Database, returning: list[str], kind: str
) -> None:
    """Also where they are returned as an array for each column."""
    await db.run(
        f"CREATE DOMAIN d AS int; CREATE TABLE t ({IDS[kind]}, name text, g int)"
    )
    await db.run("ALTER TABLE t ADD UNIQUE (name)")
    await db.run("INSERT INTO t (name, g) VALUES ('x', 5), ('y', NULL)")
    for names in ("bacbd", "xyx", "exfygx", "abcdefgxy"):
        results = await get_or_create_many(
            *(db.handle, "t", [{"name": n} for n in names]),
            key="name",
            returning=returning,
        )
        read = await fetched(db.handle, f"SELECT name, {', '.join(returning)} FROM t")
        stored = {row["name"]: {c: row[c] for c in returning} for row in read}
        assert [r.row for r in results] == [stored[n] for n in names]
        assert [type(r.row["id"]) for r in results] == [
            type(stored[n]["id"]) for n in names
        ]


async def test_ids_are_read_by_a_codec_of_the_caller(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (id smallserial, name text UNIQUE)")
    conn: Any = pg.handle
    for names in ("abc", "abcdef"):
        rows = [{"name": n} for n in names]
        results = await get_or_create_many(
            conn, "t", rows, key="name", returning=["id"]
        )
        assert {type(r.row["id"]) for r in results} == {int if names == "abc" else str}
        await conn.set_type_codec(
            "int2", schema="pg_catalog", encoder=str, decoder=str, format="text"
        )


@pytest.mark.parametrize("nulls", ["", "NULLS NOT DISTINCT"])
async def test_a_key_of_two_columns_of_which_one_may_be_null(
    pg: PostgresDatabase, nulls: str
) -> None:
    table = f"CREATE TABLE t (id serial, a int, b text, UNIQUE {nulls} (a, b))"
    keys = [(1, "a"), (None, "a"), (2, "a"), (1, "b"), (1, "a"), (2, None), (None, "a")]
    rows = [{"a": a, "b": b} for a, b in [*keys, (3, "c"), (4, "c")]]
    found: list[Any] = []
    for call in (one_by_one, in_bulk):
        await pg.run("DROP TABLE IF EXISTS t")
        async with pg.connect() as conn:
            if not await created(conn, table):
                return
        await pg.run("INSERT INTO t (a, b) VALUES (2, 'a')")
        results = await call(pg, rows, "a", "b")
        found.append([(r.created, r.row["a"], r.row["b"]) for r in results])
        assert len(await pg.query("SELECT FROM t")) == 7
    assert found[0] == found[1]


@dataclass
class Tag:
    name: str
    id: int


class Base(DeclarativeBase):
    pass


class Named(Base):
    __tablename__ = "t"
    number: Mapped[int] = mapped_column("id", primary_key=True)
    label: Mapped[str] = mapped_column("name")
    g: Mapped[int | None]


async def test_results_may_be_instances_of_classes(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    await pg.run(TABLE)
    names = ["d", "b", "a", "c", "b"]
    tags = await get_or_create_many(
        pg.handle, "t", [{"name": n} for n in names], key="name", returning=Tag
    )
    assert [r.row for r in tags] == [
        *(Tag("d", 1), Tag("b", 2), Tag("a", 3), Tag("c", 4), Tag("b", 2))
    ]
    engine = engine_on("asyncpg", pg_server.dsn, pg.schema)
    try:
        async with AsyncSession(engine) as session:
            labels = [{"label": n} for n in ("g", "b", "f", "e")]
            found = await get_or_create_many(
                session, Named, labels, key="label", returning=Named
            )
            assert [(r.row.number, r.row.label) for r in found] == [
                *((5, "g"), (2, "b"), (6, "f"), (7, "e"))
            ]
    finally:
        await engine.dispose()


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_row_that_another_creates_meanwhile_is_found(
    pg: PostgresDatabase, end: str
) -> None:
    await pg.run(TABLE)
    rows = [{"name": f"n{n * 7919 % 5_100:04}"} for n in range(5_100)]
    async with pg.connect() as one, pg.connect() as other:
        await other.execute("BEGIN; INSERT INTO t (name) VALUES ('n4999')")
        call = get_or_create_many(one, "t", rows, key="name", returning=["id", "name"])
        task = asyncio.create_task(call)
        await waiting(pg, one)
        await other.execute(end)
        results = await task
    stored = dict(await pg.query("SELECT name, id FROM t"))
    assert [r.row for r in results] == [
        {"id": stored[row["name"]], "name": row["name"]} for row in rows
    ]
    theirs = [r.row["name"] for r in results if not r.created]
    assert theirs == (["n4999"] if end == "COMMIT" else [])


@pytest.mark.parametrize("existing", [0, 2])
async def test_two_rows_that_are_equal_by_another_index(
    pg: PostgresDatabase, existing: int
) -> None:
    await pg.run(f"{TABLE}; CREATE UNIQUE INDEX ON t (g)")
    names = ["a", "b", "c", "d", "e", "f"]
    for n in names[:existing]:
        await pg.run(f"INSERT INTO t (name) VALUES ('{n}')")
    rows = [{"name": n, "g": min(number, 4)} for number, n in enumerate(names)]
    with pytest.raises(BulkError) as caught:
        await get_or_create_many(pg.handle, "t", rows, key="name")
    assert caught.value.index == 5
    assert isinstance(caught.value.__cause__, asyncpg.UniqueViolationError)
    assert await pg.query("SELECT count(*) FROM t") == [(existing,)]


async def test_a_row_that_violates_a_check(pg: PostgresDatabase) -> None:
    await pg.run(f"{TABLE}; ALTER TABLE t ADD CHECK (g < 3)")
    rows = [{"name": f"n{number}", "g": number} for number in range(5)]
    with pytest.raises(BulkError) as caught:
        await get_or_create_many(pg.handle, "t", rows, key="name")
    assert caught.value.index == 3
    assert isinstance(caught.value.__cause__, asyncpg.CheckViolationError)
    assert await pg.query("SELECT FROM t") == []


async def test_a_row_that_the_snapshot_does_not_show(pg: PostgresDatabase) -> None:
    await pg.run(TABLE)
    rows = [{"name": n} for n in "abcd"]
    conn: Any = pg.handle
    with pytest.raises(asyncpg.SerializationError):
        async with conn.transaction(isolation="repeatable_read"):
            await conn.fetch("SELECT FROM t")
            await pg.run("INSERT INTO t (name) VALUES ('c')")
            await get_or_create_many(conn, "t", rows, key="name")
    assert await pg.query("SELECT name FROM t") == [("c",)]


async def test_clients_with_overlapping_names_create_each_once(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLE)
    answers: list[Any] = []

    async def ask(conn: Any, number: int) -> None:
        names = [f"n{(number * 131 + n * 7) % 900}" for n in range(600)]
        rows = [{"name": n} for n in names]
        results = await get_or_create_many(
            conn, "t", rows, key="name", batch_size=250 + 50 * (number % 3)
        )
        assert [r.row["name"] for r in results] == names
        answers.extend(results)

    async with clients(pg, 12) as conns:
        await together(conns, ask)
    stored = dict(await pg.query("SELECT name, id FROM t"))
    assert all(stored[r.row["name"]] == r.row["id"] for r in answers)
    assert sum(r.created for r in answers) == len(stored) == 900
