"""The short forms of the other stress tests."""

from typing import Any

import pytest

from tests.stress import (
    cancellations,
    differential,
    faults,
    processes,
    service,
    soak,
)
from tests.support.databases import CONNECTIONS
from tests.support.servers import Server


@pytest.mark.parametrize("journal", ["wal", "delete"])
async def test_processes_count_in_one_file(journal: Any) -> None:
    size = processes.Size(processes=3, tasks=4, operations=40)
    line, is_good = await processes.count_together(journal, size, seed=1)
    assert is_good, line


@pytest.mark.parametrize("kind", CONNECTIONS)
async def test_cancelled_calls(pg_server: Server, kind: Any) -> None:
    size = cancellations.Size(connections=8, keys=4, operations=400)
    line, is_good = await cancellations.cancel(pg_server.dsn, kind, size, seed=1)
    assert is_good, line


async def test_whatever_fails() -> None:
    size = faults.Size(4, 1, 1, 3, 5)
    with faults.running() as node:
        line, is_good = await faults.fail(node, size, seed=1)
    assert is_good, line


async def test_an_application_in_service() -> None:
    with faults.running() as node:
        line, is_good = await service.serve(node, service.Size(16, 0.3), seed=1)
    assert is_good, line


async def test_a_file_that_is_full() -> None:
    line, is_good = await faults.fill(50)
    assert is_good, line


async def test_everything_at_once(pg_server: Server) -> None:
    size = soak.Size(clients=9, seconds=1, between=0.2)
    line, _ = await soak.soak(pg_server.dsn, size, seed=1)
    # The memory tells something only after a long time.
    assert "0 wrong sums" in line
    assert "0 tasks, 0 connections and 0 transactions left" in line


def test_no_difference_between_databases_and_model(pg_server: Server) -> None:
    line, is_good = differential.differ(pg_server.dsn, 30, 1)
    assert is_good, line
