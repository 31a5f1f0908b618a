"""The worker and its queue, on a PostgreSQL."""

import asyncio
import re
import signal
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from tests.examples.programs import TIMEOUT, Program, documented, output, started
from tests.support.databases import PostgresDatabase

WORK = documented("worker", "venv .venv")
DEFER = documented("worker", "worker.py defer 500")

COUNTED = "SELECT day, path, count(*) FROM views GROUP BY day, path ORDER BY day, path"
TOTALS = "SELECT day, path, views FROM daily_totals ORDER BY day, path"


def working(url: str, log: Path) -> AbstractContextManager[Program]:
    return started(WORK, log, WORKER_DB=url)


def defer(url: str, views: int = 500) -> None:
    assert output([*DEFER[:-1], str(views)], WORKER_DB=url).startswith(f"{views} views")


async def finished(pg: PostgresDatabase) -> None:
    """Wait until every job is done."""
    unfinished = "SELECT id FROM procrastinate_jobs WHERE status <> 'succeeded'"
    async with asyncio.timeout(TIMEOUT):
        while True:
            if not await pg.query(unfinished):
                return
            await asyncio.sleep(0.05)


async def test_jobs_keep_the_totals(
    pg: PostgresDatabase, pg_url: str, tmp_path: Path
) -> None:
    with working(pg_url, tmp_path / "worker.log") as worker:
        worker.wait_for("working")
        for views in (500, 100):
            defer(pg_url, views)
            await finished(pg)
            assert await pg.query(TOTALS) == await pg.query(COUNTED)
        ((total,),) = await pg.query("SELECT sum(views) FROM daily_totals")
        assert total == 600
        assert worker.stop(signal.SIGINT) == 0


async def test_workers_that_start_together_share_the_work(
    pg: PostgresDatabase, pg_url: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(working(pg_url, tmp_path / f"{number}.log"))
            for number in range(2)
        ]
        # Meanwhile, each of the three may be the one that creates the tables.
        defer(pg_url)
        await finished(pg)
        assert await pg.query(TOTALS) == await pg.query(COUNTED)
        for worker in workers:
            worker.wait_for("working")
            assert worker.stop(signal.SIGTERM) == 0


async def test_a_worker_told_to_stop_finishes_the_jobs_it_has(
    pg: PostgresDatabase, pg_url: str, tmp_path: Path
) -> None:
    defer(pg_url)
    with working(pg_url, tmp_path / "worker.log") as worker:
        worker.wait_for("created")
        assert worker.stop(signal.SIGTERM) == 0
    jobs = dict(
        await pg.query(
            "SELECT status, count(*) FROM procrastinate_jobs GROUP BY status"
        )
    )
    assert jobs.keys() <= {"succeeded", "todo"}
    assert len(await pg.query(TOTALS)) == jobs["succeeded"]


async def test_a_job_that_comes_again_or_late_changes_nothing(
    pg: PostgresDatabase, pg_url: str, tmp_path: Path
) -> None:
    defer(pg_url)
    with working(pg_url, tmp_path / "first.log"):
        await finished(pg)
    # As if one of the pages had been viewed and counted meanwhile.
    await pg.run(
        "UPDATE procrastinate_jobs SET status = 'todo';"
        "UPDATE daily_totals SET views = views + 1 WHERE path = '/page/1'"
    )
    totals = await pg.query(TOTALS)
    with working(pg_url, tmp_path / "second.log") as worker:
        await finished(pg)
        printed = worker.log.read_text("utf-8")
    assert await pg.query(TOTALS) == totals
    assert re.findall("created|updated|skipped", printed) == ["skipped"] * 50


def test_a_worker_that_cannot_work_says_how_it_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WORKER_DB", raising=False)
    assert "WORKER_DB names the PostgreSQL" in output(WORK, 1)
    # Nothing is there to connect to.
    url = "postgresql://127.0.0.1:1/none"
    assert "worker.py defer 500" in output([*WORK, "defer", "many"], 1, WORKER_DB=url)
