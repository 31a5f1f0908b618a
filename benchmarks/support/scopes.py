"""
What other libraries do to make a table equal to its source, each at its best.

They are installed by the group of dependencies *peers*; what is not there is left out.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple

from benchmarks.support.rows import COLUMNS, Row

Rows = Sequence[Row]


class Peer(NamedTuple):
    """
    A library.

    Attributes:
        fill: Makes its table hold these rows, and only these.
        sync: Makes the table equal to these.
        table: The name of its table.
    """

    fill: Callable[[Rows], Awaitable[object]] | None
    sync: Callable[[Rows], Awaitable[object]]
    table: str


def dbmerge(dsn: str) -> Peer:
    """COPY to a temporary table, then a statement each to update, insert and delete."""
    merge = import_module("dbmerge").dbmerge
    url = dsn.replace("postgresql://", "postgresql+psycopg://")
    engine: Any = import_module("sqlalchemy").create_engine(url)

    def write(rows: Rows) -> None:
        data = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
        options = {"table_name": "views", "key": ["path"], "delete_mode": "delete"}
        with merge(engine=engine, data=data, **options) as merging:
            merging.exec(commit_all_steps=False)

    return Peer(None, lambda rows: asyncio.to_thread(write, rows), "views")


# dlt replaces what has the merge key of a row that comes; every row has this one.
_SCOPE: Final = "everything"


def dlt(dsn: str) -> Peer:
    """An Arrow table to a staging table, then all rows are deleted and inserted."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"
    # It asks for one, which a server on this machine may not.
    os.environ.setdefault("CREDENTIALS__PASSWORD", "none")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    library, arrow = import_module("dlt"), import_module("pyarrow")
    pipeline = library.pipeline(
        "views",
        pipelines_dir=folder,
        destination=library.destinations.postgres(dsn),
        dataset_name="dlt_views",
    )

    def write(rows: Rows, disposition: str) -> None:
        columns = [*map(list, zip(*rows, strict=True)), [_SCOPE] * len(rows)]
        resource = library.resource(
            arrow.table(columns, names=[*COLUMNS, "scope"]),
            name="views",
            write_disposition=disposition,
            merge_key="scope",
        )
        pipeline.run(resource, loader_file_format="csv")

    return Peer(
        lambda rows: asyncio.to_thread(write, rows, "replace"),
        lambda rows: asyncio.to_thread(write, rows, "merge"),
        "dlt_views.views",
    )


def installed() -> dict[str, Callable[[str], Peer]]:
    """Return how to open each library that is installed, by its name."""
    return {peer.__name__: peer for peer in (dbmerge, dlt) if find_spec(peer.__name__)}
