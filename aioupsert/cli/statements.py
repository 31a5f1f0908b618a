"""The statements that a load sends, as `--verbose` shows them."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aioupsert.cli.errors import printable

_WIDTH: Final = 79


class _Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._seen
        self._seen.add(message)
        return is_new


class _Wrapped(logging.Formatter):
    """Writes a message in lines that fit a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return textwrap.fill(
            printable(record.getMessage()),
            _WIDTH,
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


@contextmanager
def show_statements(enabled: bool) -> Generator[None]:
    """Print the statements that are sent while the block runs, if enabled."""
    logger, handler = logging.getLogger("aioupsert"), logging.StreamHandler()
    handler.addFilter(_Once())
    handler.setFormatter(_Wrapped())
    level = logger.level
    if enabled:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
