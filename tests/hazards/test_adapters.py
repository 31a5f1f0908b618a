"""A list or dict of a class for which the driver has an adapter goes to the driver."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.adapt import Dumper

from aioupsert import Coalescer, F, create_or_update, create_or_update_many

if TYPE_CHECKING:
    from tests.support.databases import PostgresDatabase, SQLiteDatabase


class Mac(list[int]):
    """Six bytes, stored as text."""


class Point(dict[str, int]):
    """Stored as text, too."""


def text_of(value: Any) -> str:
    return "-".join(map(str, value.values() if isinstance(value, dict) else value))


class TextDumper(Dumper):
    def dump(self, obj: Any) -> bytes:
        return text_of(obj).encode()


@pytest.fixture
def adapters() -> Iterator[None]:
    for cls in (Mac, Point):
        sqlite3.register_adapter(cls, text_of)
    yield
    for cls in (Mac, Point):
        # There is no function that takes one back.
        del sqlite3.adapters[cls, sqlite3.PrepareProtocol]


async def write_every_way(handle: Any) -> None:
    key = {"k": Mac([1, 2])}
    await create_or_update(handle, "t", key=key, defaults={"v": Point(x=1, y=2)})
    await create_or_update(handle, "t", key=key, where=F("k") == Mac([1, 2]))
    rows = [{"k": Mac([n % 3, 2]), "v": Point(x=n)} for n in range(6)]
    await create_or_update_many(handle, "t", rows, key="k")
    async with Coalescer(handle, "t", key="k") as coalescer:
        await coalescer.create_or_update(key=key, defaults={"v": Point(x=1, y=3)})


STORED = [("0-2", "3"), ("1-2", "1-3"), ("2-2", "5")]


@pytest.mark.usefixtures("adapters")
@pytest.mark.parametrize("type_", ["text", "json", ""])
async def test_on_sqlite(lite: SQLiteDatabase, type_: str) -> None:
    await lite.run(f"CREATE TABLE t (k text PRIMARY KEY, v {type_})")
    await write_every_way(lite.handle)
    rows = await lite.query("SELECT * FROM t ORDER BY k")
    assert [(k, str(v)) for k, v in rows] == STORED


@pytest.mark.parametrize("db", ["psycopg"], indirect=True)
async def test_on_psycopg(db: PostgresDatabase) -> None:
    await db.run("CREATE TABLE t (k text PRIMARY KEY, v text)")
    for cls in (Mac, Point):
        db.handle.adapters.register_dumper(cls, TextDumper)
    await write_every_way(db.handle)
    assert await db.query("SELECT * FROM t ORDER BY k") == STORED


async def test_a_codec_of_asyncpg_gets_the_object(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, v json)")

    def encode(value: object) -> str:
        return json.dumps({"class": type(value).__name__})

    await pg.handle.set_type_codec(
        "json", schema="pg_catalog", encoder=encode, decoder=json.loads
    )
    rows = [{"k": n, "v": Point(x=n)} for n in range(3)]
    await create_or_update_many(pg.handle, "t", rows, key="k")
    await create_or_update(pg.handle, "t", key={"k": 3}, defaults={"v": {"x": 1}})
    assert await pg.query("SELECT v::text FROM t ORDER BY k") == [
        *[('{"class": "Point"}',)] * 3,
        ('{"x":1}',),
    ]
