"""Calls of many tasks, executed together: how they queue, and how they are sent."""

from aioupsert._coalescer.coalescer import Coalescer

__all__ = ["Coalescer"]
