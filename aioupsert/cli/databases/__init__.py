"""Connections by URL, with what the commands need in addition to the library."""

from aioupsert.cli.databases.base import (
    Database,
    Engine,
    SelfReference,
    TransactionEnd,
    Values,
)
from aioupsert.cli.databases.opening import open_database
from aioupsert.cli.databases.urls import check_url, is_postgresql, sqlite_path

__all__ = [
    "Database",
    "Engine",
    "SelfReference",
    "TransactionEnd",
    "Values",
    "check_url",
    "is_postgresql",
    "open_database",
    "sqlite_path",
]
