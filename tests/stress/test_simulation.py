"""The short form of the simulation, and that it sees what goes wrong."""

from typing import Any

import pytest

from aioupsert._coalescer.queue import Queue
from tests.stress import simulation
from tests.stress.simulation import SimulatedConnection, Simulation, simulate_many


@pytest.mark.parametrize("start", range(0, 50, 10))
def test_no_order_of_events_breaks_a_promise(start: int) -> None:
    line, is_good = simulate_many(range(start, start + 10))
    assert is_good, line


def test_a_seed_is_one_order_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        Simulation,
        "_check",
        lambda self: seen.append(
            (self.world.history, [(c.key, c.value, str(c.told)) for c in self.calls])
        ),
    )
    for seed in (3, 3, 4):
        simulation.simulate(seed)
    assert seen[0] == seen[1] != seen[2]


def test_writes_that_are_lost_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedConnection, "_put", lambda *_: None)
    line, is_good = simulate_many(range(5))
    assert not is_good
    assert "is stored 0 times" in line


def test_rows_in_two_batches_at_once_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every call is taken for one of another row.
    monkeypatch.setattr(Queue, "_row_of", lambda *_: object())
    _, is_good = simulate_many(range(20))
    assert not is_good
