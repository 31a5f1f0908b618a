"""The table of a call: a name, or a table or class of SQLAlchemy."""

from __future__ import annotations

import importlib
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from aioupsert._plan import BulkRequest, RequestShape, read_bulk_request, read_request
from aioupsert._plan.schema import TableName, split_name, table_name
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._plan.bulk_request import BulkArguments
    from aioupsert._plan.request import Arguments
    from aioupsert._sqlalchemy.models import Model
    from aioupsert.results import Result


class Target:
    """
    The table of a call, as SQLAlchemy describes it if it is one of SQLAlchemy's.

    Attributes:
        name: Its name.
        model: What SQLAlchemy knows of it, or None.
    """

    __slots__ = ("_conn", "model", "name")

    def __init__(self, conn: object, table: object) -> None:
        """
        Read what the caller gave.

        Raises:
            UsageError: It is not a table.
        """
        self._conn = conn
        self.model: Model | None = None
        if isinstance(table, str):
            self.name: TableName = split_name(table)
            return
        is_name = isinstance(table, tuple)
        if not is_name:
            self.model = _model_of(conn, table)
        self.name = table_name(table) if self.model is None else self.model.name

    def read(self, arguments: Arguments) -> tuple[RequestShape, list[Value]]:
        """Return the shape of a call and its values."""
        if self.model is None:
            return read_request(**arguments)
        self.model.wants_objects(self._conn, arguments["returning"])
        return read_request(**self.model.call(arguments))

    def read_without_defaults(
        self, arguments: Arguments
    ) -> tuple[RequestShape, list[Value]]:
        """Return the same for a call that only reads: no default is made for it."""
        if self.model is None:
            return read_request(**arguments)
        self.model.wants_objects(self._conn, arguments["returning"])
        return read_request(**self.model.look(arguments))

    def read_bulk(self, arguments: BulkArguments) -> BulkRequest:
        """Check the arguments of a bulk call by themselves."""
        if self.model is not None:
            return read_bulk_request(**self.model.bulk_call(**arguments))
        return read_bulk_request(**arguments)

    async def translate(self, result: Result, returning: object) -> Result:
        """Return a result in the terms of the model, if there is one."""
        if self.model is None:
            return result
        if self.model.wants_objects(self._conn, returning):
            return await self.model.objects(self._conn, result)
        return self.model.result(result)


@lru_cache(maxsize=256)
def named(table: str) -> Target:
    """
    Return the target of a table's name.

    Raises:
        UsageError: It is not a table's name.
    """
    return Target(None, table)


def _model_of(conn: object, table: object) -> Model | None:
    """
    Return what SQLAlchemy knows of a table; None for a table's name.

    Raises:
        UsageError: It cannot be written as one table.
    """
    if "sqlalchemy" not in sys.modules:
        return None
    models = importlib.import_module("aioupsert._sqlalchemy.models")
    model: Model | None = models.model_of(conn, table)
    return model
