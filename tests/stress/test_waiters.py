"""What the documentation lists of two calls that wait for a third transaction."""

import pytest

from tests.stress.outcomes import documented
from tests.stress.waiters import SCENES, Scene, freed_in, scene_listed
from tests.support.servers import Server


@pytest.mark.parametrize("scene", SCENES, ids=[s.name for s in SCENES])
async def test_two_that_wait_have_the_documented_outcome(
    pg_server: Server, scene: Scene
) -> None:
    found = await freed_in(pg_server.dsn, scene)
    assert scene_listed(scene, found) == documented(scene.name)
    for one in found:
        if one.call != "create_or_update_many":
            created, updated = (one.said.count(s) for s in ("created", "updated"))
            assert created <= (not scene.left)
            assert dict(one.rows).get(1, 0) == scene.left + created + updated
