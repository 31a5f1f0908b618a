"""What the documentation lists of two transactions is what happens."""

from typing import Final

import pytest

from tests.stress.outcomes import documented
from tests.stress.permutations import SCENARIOS, Scenario, listed, observed
from tests.support.servers import Server

# The others are left to the long form, which writes the list.
SOME: Final = SCENARIOS[::3]


# A row is proposed to the first one, where that is right; to the other one never.
TABLES: Final = {"plain": "", "with a check": ", CHECK (k > 0)"}


@pytest.mark.parametrize("more", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("scenario", SOME, ids=[s.name for s in SOME])
async def test_every_order_has_the_documented_outcome(
    pg_server: Server, scenario: Scenario, more: str
) -> None:
    found = await observed(pg_server.dsn, scenario, more)
    assert listed(scenario, found) == documented(scenario.name)
    for (name, _), some in found.items():
        for outcome in some:
            check(name, outcome.said, dict(outcome.rows), scenario)


def check(
    name: str, said: dict[str, str], rows: dict[int, int], scenario: Scenario
) -> None:
    """See that the row 1 holds what the calls that were committed say of it."""
    if name == "create_or_update_many" or scenario.first:
        return
    ends = {"1": said["end 1"] == "COMMIT", "2": said["commit 2"] == "COMMIT"}
    told = [said[step].split(" then ")[-1] for step, kept in ends.items() if kept]
    before = 10 if scenario.rows else 0
    created = told.count("created")
    assert created == (1 in rows and not before)
    assert rows.get(1, 0) == before + created + told.count("updated")
