"""The libraries, aioupsert first: the others are compared with it."""

from __future__ import annotations

from typing import Final

from benchmarks.peers.libraries import (
    alchemy,
    by_hand,
    django_orm,
    ours,
    piccolo_orm,
    sqlite_tools,
    tortoise_orm,
)
from benchmarks.peers.library import Peer

POSTGRESQL: Final[tuple[Peer, ...]] = (
    *ours.POSTGRESQL,
    *by_hand.POSTGRESQL,
    *alchemy.POSTGRESQL,
    tortoise_orm.PEER,
    piccolo_orm.PEER,
    *django_orm.POSTGRESQL,
)
SQLITE: Final[tuple[Peer, ...]] = (
    *ours.SQLITE,
    *by_hand.SQLITE,
    *alchemy.SQLITE,
    tortoise_orm.PEER,
    *django_orm.SQLITE,
    sqlite_tools.PEER,
)
