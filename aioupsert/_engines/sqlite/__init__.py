"""SQLite: what is run, in which order, and what its answers mean."""

from __future__ import annotations

from typing import Final

from aioupsert._engines.sqlite.engine import SqliteEngine

SQLITE: Final = SqliteEngine()
