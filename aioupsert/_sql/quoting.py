"""Identifiers and literals as SQL text. Values never come here: they are parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def quote(name: str) -> str:
    """Quote an identifier; both engines double the quotation marks inside."""
    return '"' + name.replace('"', '""') + '"'


def quote_path(parts: Iterable[str]) -> str:
    """Quote a table's name with its schema."""
    return ".".join(map(quote, parts))


def quote_text(text: str) -> str:
    """Quote a text that comes from the catalog, for where no parameter may stand."""
    return "'" + text.replace("'", "''") + "'"


def quote_escaped(text: str) -> str:
    """Quote a text for PostgreSQL, whatever it takes a backslash for."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"
