"""What both catalogs share: reading the predicate of a partial index."""

from __future__ import annotations

import re
from typing import Final

_IS_NULL: Final = re.compile(r'(?:"((?:[^"]|"")+)"|(\w+)) IS NULL', re.IGNORECASE)


def null_predicate(predicate: str | None) -> tuple[str, ...]:
    """Give the columns of ``a IS NULL [AND b IS NULL ...]``; nothing if it is more."""
    if predicate is None:
        return ()
    plain = predicate.replace("(", "").replace(")", "").strip()
    tests = [_IS_NULL.fullmatch(part) for part in re.split(r"\s+AND\s+", plain)]
    names = [(m[1] or m[2]).replace('""', '"') for m in tests if m is not None]
    return tuple(names) if len(names) == len(tests) else ()
