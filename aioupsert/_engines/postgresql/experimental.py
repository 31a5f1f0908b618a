"""
The servers of which support is experimental.

They are compatible with PostgreSQL, and what differs is known from their documentation
only: `cockroachdb`, `citus` and `yugabytedb`, one module each.
"""

from __future__ import annotations

import functools
import logging
from typing import Final, Literal, TypeAlias

_logger: Final = logging.getLogger("aioupsert")

ExperimentalServer: TypeAlias = Literal["CockroachDB", "Citus", "YugabyteDB"]


@functools.cache
def log_experimental(server: ExperimentalServer) -> None:
    """Log a warning, once per process and kind of server."""
    _logger.warning("support for %s is experimental", server)
