"""How many messages a call writes to the server."""

from collections.abc import Awaitable
from typing import Any

import pytest


class Flights:
    """Counts what is written to the server: each message asks for one answer."""

    def __init__(self, conn: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        transport = conn._transport
        write = transport.write

        def counting(data: bytes) -> None:
            self.count += 1
            write(data)

        monkeypatch.setattr(transport, "write", counting)

    async def of(self, call: Awaitable[Any]) -> tuple[Any, int]:
        self.count = 0
        return await call, self.count
