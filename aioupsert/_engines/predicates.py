"""What both catalogs share: reading the predicate of a partial index."""

from __future__ import annotations

import re
from typing import Final

_TEST: Final = r'\(*\s*("(?:[^"]|"")+"|[^\W\d]\w*)\s+IS\s+NULL\s*\)*'
_TESTS: Final = re.compile(rf"{_TEST}(?:\s+AND\s+{_TEST})*", re.IGNORECASE)
_COLUMNS: Final = re.compile(_TEST, re.IGNORECASE)


def null_predicate(predicate: str | None) -> tuple[str, ...]:
    """Give the columns of ``a IS NULL [AND b IS NULL ...]``; nothing if it is more."""
    if predicate is None or not _TESTS.fullmatch(predicate.strip()):
        return ()
    names: list[str] = _COLUMNS.findall(predicate)
    return tuple(
        name[1:-1].replace('""', '"') if name.startswith('"') else name
        for name in names
    )
