"""What the documentation lists of transactions that make the same call."""

import pytest

from tests.stress.interleavings import RACES, THREE, Race, race_listed, taken_in
from tests.stress.outcomes import documented
from tests.support.servers import Server


@pytest.mark.parametrize("race", RACES, ids=[race.name for race in RACES])
async def test_every_order_has_a_documented_outcome(
    pg_server: Server, race: Race
) -> None:
    # The other calls are left to the long form, which writes the list.
    found = await taken_in(pg_server.dsn, race, ["create_or_update"])
    assert {*race_listed(race, found)} <= {*documented(race.name)}
    for some in found.values():
        for one in some:
            created, updated = (one.said.count(s) for s in ("created", "updated"))
            assert created == (not race.rows)
            assert dict(one.rows)[1] == (10 if race.rows else created) + updated
        # Else none was held when both had found no row.
        assert race.steps == THREE or any(one.again for one in some)
