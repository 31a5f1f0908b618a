"""
The predicates of partial unique indexes.

Both databases report a predicate as SQL text. One form of it is understood here:
``a IS NULL [AND b IS NULL ...]``. An index with such a predicate makes a key unique in
which these columns are NULL. Any other partial index makes no key unique.
"""

from __future__ import annotations

import re
from typing import Final

_TEST: Final = r'\(*\s*("(?:[^"]|"")+"|[^\W\d]\w*)\s+IS\s+NULL\s*\)*'
_TESTS: Final = re.compile(rf"{_TEST}(?:\s+AND\s+{_TEST})*", re.IGNORECASE)
_COLUMNS: Final = re.compile(_TEST, re.IGNORECASE)


def null_columns(predicate: str | None) -> tuple[str, ...]:
    """Return the columns that a predicate requires to be NULL; () if it is another."""
    if predicate is None or not _TESTS.fullmatch(predicate.strip()):
        return ()
    names: list[str] = _COLUMNS.findall(predicate)
    return tuple(
        name[1:-1].replace('""', '"') if name.startswith('"') else name
        for name in names
    )
