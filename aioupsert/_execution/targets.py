"""The table of a call, a name or a table or class of SQLAlchemy, and its connection."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aioupsert._plan import (
    BulkRequest,
    RequestShape,
    read_bulk_request,
    read_request,
    read_row_request,
)
from aioupsert._plan.bulk_request import bulk_request, read_key_names
from aioupsert._plan.row_classes import RowClass, row_class
from aioupsert._plan.schema import NAMES, TableName, table_name
from aioupsert._plan.sync_request import (
    SyncRequest,
    SyncTerms,
    read_marks,
    read_scope,
    read_sync_request,
    with_scope,
)
from aioupsert.errors import UsageError
from aioupsert.typing import Returning, Value

if TYPE_CHECKING:
    from types import ModuleType

    from aioupsert._drivers.base import Handle
    from aioupsert._plan.bulk_request import BulkArguments
    from aioupsert._plan.request import Arguments
    from aioupsert._sqlalchemy.models import Model
    from aioupsert.results import Result

# Names and classes that a program makes while it runs must not fill the memory.
_MAX_CACHED: Final = 256


class Default(str):
    """A value of *returning* that the caller has not given."""

    __slots__ = ()


ALL: Final = Default("*")


class Target:
    """
    The table of a call, as SQLAlchemy describes it if it is one of SQLAlchemy's.

    Attributes:
        name: Its name.
        model: What SQLAlchemy knows of it, or None.
        handle: The connection of the call; one of SQLAlchemy's bound to the table, so
            that a session is asked for the connection that this table is written over.
    """

    __slots__ = ("_conn", "_options", "_synchronize", "handle", "model", "name")

    def __init__(
        self, conn: object, table: object, options: Mapping[str, object] | None = None
    ) -> None:
        """
        Read what the caller gave.

        Args:
            conn: The connection.
            table: The table.
            options: Execution options of SQLAlchemy for the call.

        Raises:
            UsageError: It is not a table.
        """
        self._conn = conn
        self._options: dict[str, object] = {**options} if options else {}
        self._synchronize = not options or _synchronize(self._options)
        self.model: Model | None = None
        if isinstance(table, str):
            self.name: TableName = NAMES[table]
        else:
            is_name = isinstance(table, tuple)
            if not is_name:
                self.model = _model_of(conn, table, self._options)
            self.name = table_name(table) if self.model is None else self.model.name
        self.handle: Handle = _bound(conn, self.name if self.model is None else table)

    def read(self, arguments: Arguments) -> tuple[RequestShape, list[Value]]:
        """Return the shape of a call and its values."""
        has_row = arguments.row is not None
        if self.model is None:
            return read_row_request(arguments) if has_row else read_request(arguments)
        arguments = self._with_names(arguments)
        if has_row:
            return read_row_request(*self.model.row_call(arguments))
        return read_request(self.model.call(arguments))

    def read_without_defaults(
        self, arguments: Arguments
    ) -> tuple[RequestShape, list[Value]]:
        """Return the same for a call that only reads: no default is made for it."""
        if self.model is None:
            return read_request(arguments)
        return read_request(self.model.look(self._with_names(arguments)))

    def read_bulk(self, arguments: BulkArguments) -> BulkRequest:
        """Check the arguments of a bulk call by themselves."""
        if self.model is None:
            return bulk_request(**arguments)
        names = self._names_of(arguments["returning"], old=arguments["old"])
        arguments = {**arguments, "returning": names}
        return read_bulk_request(**self.model.bulk_call(**arguments))

    def default_returning(self, returning: Returning) -> Returning:
        """Return what a call returns that may not say so: over a session, objects."""
        if isinstance(returning, Default) and self.model is not None:
            return self.model.default_returning(self._conn, returning)
        return returning

    def read_sync(
        self, arguments: BulkArguments, scope: object, missing: object
    ) -> SyncRequest:
        """Check the arguments of `sync_rows` by themselves."""
        cells, marks = read_scope(scope), read_marks(missing)
        key, touch = arguments["key"], arguments["touch"]
        if self.model is None:
            names = read_key_names(key)
            updates = {**touch} if touch and marks else {}
            terms = SyncTerms(cells, cells, None, marks, {}, updates)
        else:
            keys = self.model.keys(key)
            names = (keys,) if isinstance(keys, str) else keys
            terms = self.model.sync_terms(cells, marks, touch)
        update = with_scope(arguments["update"], [*terms.cells], names)
        rows = self.read_bulk({**arguments, "update": update})
        return read_sync_request(rows, names, terms, keeps=missing == "keep")

    def tracked(self, arguments: Arguments) -> Arguments | None:
        """Return arguments that tell which loaded objects a call is about, if any."""
        if self.model is None or not self._synchronizes():
            return None
        names = self._names_of(arguments.returning, old=arguments.old)
        returning = self.model.with_identity(names)
        return arguments._replace(returning=returning)

    async def translate(
        self, result: Result, returning: Returning, *, tracked: bool = False
    ) -> Result:
        """
        Return a result in the terms of the model, with rows of what was asked for.

        Args:
            result: The result.
            returning: What the caller asked for.
            tracked: Whether loaded objects are to be refreshed.
        """
        if tracked and self.model is not None and not self._wants_objects(returning):
            names = self._names_of(returning, old=False)
            result = await self.model.synchronize(
                self._conn, result, names, self._options
            )
            return result if names is returning else self._made([result], returning)[0]
        return (await self.translate_all([result], returning))[0]

    async def translate_all(
        self, results: Sequence[Result], returning: Returning
    ) -> Sequence[Result]:
        """Do the same for several results; of loaded objects none is refreshed."""
        if self.model is not None:
            if self._wants_objects(returning):
                return await self.model.objects(self._conn, results, self._options)
            results = [self.model.result(result) for result in results]
        return self._made(results, returning)

    def made(self, result: Result, returning: Returning) -> Result:
        """Return a result in the terms of the model, where no session is needed."""
        if self.model is not None:
            result = self.model.result(result)
        return self._made([result], returning)[0]

    def check_without_session(self, returning: Returning) -> None:
        """
        Check that rows of this class can be made without a session.

        Raises:
            UsageError: They are objects of a session.
        """
        if self._wants_objects(returning):
            msg = (
                f"returning={returning!r}: a coalescer gives rows, as mapped objects are"
                " loaded in a session; name attributes"
            )
            raise UsageError(msg)

    def _made(
        self, results: Sequence[Result], returning: Returning
    ) -> Sequence[Result]:
        """Make rows of the class that was asked for."""
        if not isinstance(returning, type):
            return results
        make = self._row_class(returning).make
        return [
            replace(
                result,
                rows=tuple(map(make, result.rows)),
                old=None if result.old is None else make(result.old),
            )
            for result in results
        ]

    def _row_class(self, cls: type[object]) -> RowClass:
        return row_class(cls) if self.model is None else self.model.row_class(cls)

    def _wants_objects(self, returning: Returning) -> bool:
        return self.model is not None and self.model.wants_objects(
            self._conn, returning
        )

    def _with_names(self, arguments: Arguments) -> Arguments:
        names = self._names_of(arguments.returning, old=arguments.old)
        return arguments._replace(returning=names)

    def _names_of(self, returning: Returning, *, old: bool) -> Returning:
        """Return the names of what is to be read, for a class."""
        if not isinstance(returning, type) or self.model is None:
            return returning
        # An object loads its row by itself, but the row as it was is gone.
        if self._wants_objects(returning) and not old:
            return self.model.identity
        return self.model.row_class(returning).names

    async def synchronize(self, *, removed: bool = False) -> None:
        """Refresh loaded objects after a bulk call; perhaps drop those without a row."""
        if self.model is not None and self._synchronizes():
            await self.model.synchronize_all(self._conn, self._options, removed=removed)

    def expire(self) -> None:
        """Expire them, after a call whose row is not known."""
        if self.model is not None and self._synchronizes():
            self.model.expire_all(self._conn)

    def _synchronizes(self) -> bool:
        return (
            self.model is not None
            and self._synchronize
            and self.model.has_loaded(self._conn)
        )


class _OfSQLAlchemy(dict[type[object], bool]):
    def __missing__(self, cls: type[object]) -> bool:
        if len(self) >= _MAX_CACHED:
            self.clear()
        self[cls] = "sqlalchemy.ext.asyncio" in sys.modules and issubclass(
            cls, _connections().HANDLES
        )
        return self[cls]


of_sqlalchemy: Final = _OfSQLAlchemy()
"""Whether a class is one of SQLAlchemy's connections, sessions or engines."""


def _connections() -> ModuleType:
    return importlib.import_module("aioupsert._sqlalchemy.connections")


def _bound(conn: Handle, table: object) -> Handle:
    """Return a connection argument, bound to the table if it is one of SQLAlchemy's."""
    if not of_sqlalchemy[type(conn)]:
        return conn
    handle: Handle = _connections().bound(conn, table)
    return handle


def _synchronize(options: dict[str, object]) -> bool:
    """
    Take from execution options whether loaded objects are to be refreshed.

    Raises:
        UsageError: They are not options that a call takes.
    """
    synchronize = options.pop("synchronize_session", "auto")
    if synchronize not in {"auto", False}:
        msg = f"synchronize_session is 'auto' or False, not {synchronize!r}"
        raise UsageError(msg)
    others = sorted({*options} - {"schema_translate_map"})
    if others:
        msg = (
            "execution_options takes schema_translate_map and synchronize_session, not"
            f" {', '.join(map(repr, others))}"
        )
        raise UsageError(msg)
    return bool(synchronize == "auto")


def _model_of(
    conn: object, table: object, options: Mapping[str, object]
) -> Model | None:
    """
    Return what SQLAlchemy knows of a table; None for a table's name.

    Raises:
        UsageError: It cannot be written as one table.
    """
    if "sqlalchemy" not in sys.modules:
        return None
    models = importlib.import_module("aioupsert._sqlalchemy.models")
    model: Model | None = models.model_of(conn, table, options)
    return model
