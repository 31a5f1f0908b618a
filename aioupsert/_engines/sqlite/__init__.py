"""SQLite: its statements, the order in which they run, and what their rows mean."""

from __future__ import annotations

from typing import Final

from aioupsert._engines.sqlite.engine import SqliteEngine

SQLITE: Final = SqliteEngine()
