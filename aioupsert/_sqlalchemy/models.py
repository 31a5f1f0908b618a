"""
SQLAlchemy's tables, mapped classes and SQLModel classes, and what they mean for a call.

Attribute names become column names, and values pass through the types of the columns,
both ways. What SQLAlchemy would do in Python when it writes a row, defaults and onupdate
of columns, is done here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.orm import (
    CompositeProperty,
    Mapper,
    RelationshipProperty,
    SynonymProperty,
)
from sqlalchemy.orm.attributes import set_committed_value

from aioupsert._drivers import is_pool
from aioupsert._drivers.base import Handle
from aioupsert._plan import pairs
from aioupsert._plan.records import RowTranslation
from aioupsert._plan.request import Arguments
from aioupsert._plan.row_classes import RowClass, row_class
from aioupsert._plan.sync_request import SyncTerms
from aioupsert._sqlalchemy.binds import (
    bind_arguments_of,
    bind_of,
    mapper_of,
    options_of,
    session_of,
)
from aioupsert._sqlalchemy.conditions import condition_of
from aioupsert._sqlalchemy.defaults import Maker, UnknownVersion, maker_of
from aioupsert._sqlalchemy.loaded import (
    ROWS_AT_ONCE,
    expire,
    loaded_states,
    refresh,
    spelling,
    with_keys,
)
from aioupsert.errors import UsageError
from aioupsert.expressions import (
    ARITHMETIC,
    DEFAULT,
    MEMBERS,
    SAME_TYPE,
    TOO_DEEP,
    Expression,
    F,
    Node,
    coalesce,
    column_beside,
    literal_kind,
    literals_of_members,
)
from aioupsert.results import Action
from aioupsert.typing import Value

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

    from aioupsert._plan.records import Records
    from aioupsert._plan.rows import OfModel
    from aioupsert._plan.schema import TableName
    from aioupsert.results import Result
    from aioupsert.typing import Returning, Update, Values


@dataclass(frozen=True, slots=True)
class _Column:
    """
    A column.

    Attributes:
        name: In the database.
        key: In Python.
        is_text: Whether the type takes text.
        write: Converts a value to what the driver takes; None if nothing is to be done.
        read: Converts what the driver returns to what the type promises; likewise.
        default: Returns the Python-side default.
        onupdate: Returns what an update sets.
    """

    name: str
    key: str
    is_text: bool
    write: Callable[[object], object] | None
    read: Callable[[object], object] | None
    default: Maker | None
    onupdate: Maker | None


class Model:
    """
    A table as SQLAlchemy describes it, for one kind of database.

    Attributes:
        name: The table's name.
        identity: The attributes of the mapped class's primary key.
    """

    def __init__(
        self, table: Any, mapper: Any, dialect: Dialect, schemas: Mapping[Any, Any]
    ) -> None:
        """
        Read what SQLAlchemy knows.

        Args:
            table: The table.
            mapper: The mapper of a class that is mapped to it, or None.
            dialect: The dialect of the connection.
            schemas: What `schema_translate_map` puts in the place of which schema.
        """
        schema = schemas.get(table.schema, table.schema)
        self.name: TableName = (table.name,) if schema is None else (schema, table.name)
        self._mapper = mapper
        self._class: Any = None if mapper is None else mapper.class_
        self._dialect = dialect
        keys: dict[Any, str] = {column: column.key for column in table.columns}
        if mapper is not None:
            keys = {
                attribute.columns[0]: attribute.key
                for attribute in mapper.column_attrs
                if attribute.columns[0] in keys
            }
        self._label = (table.name,) if mapper is None else (mapper.class_.__name__,)
        self._keys = keys
        self._attributes = {
            keys[column]: column for column in table.columns if column in keys
        }
        columns = [
            _read_column(column, keys[column], dialect, schemas)
            for column in table.columns
            if column in keys
        ]
        self._by_key = {column.key: column for column in columns}
        self._by_name = {column.name: column for column in columns}
        self._defaults = {
            column.name: (column, column.default)
            for column in columns
            if column.default is not None
        }
        self._read_by_sql = {
            column.name
            for column in table.columns
            if column in keys and getattr(column.type, "_has_column_expression", False)
        }
        self._found_by: dict[str, object] = {}
        self._classes: Expression | None = None
        if mapper is not None:
            self._read_classes(mapper, keys)
            self._read_version(mapper, keys)
            for synonym in mapper.synonyms:
                if synonym.name in self._by_key:
                    self._by_key[synonym.key] = self._by_key[synonym.name]
        self.identity = tuple(
            keys[c] for c in (() if mapper is None else mapper.primary_key)
        )

    def _read_classes(self, mapper: Any, keys: Mapping[Any, str]) -> None:
        """
        Read which class a row is of, as the ORM writes and asks for it.

        A row of another class in the same table is not found, as if the column were a
        part of the key; for a class with further ones below it, it is left as it is.
        """
        which = mapper.polymorphic_identity
        key = keys.get(mapper.polymorphic_on)
        if which is None or key is None:
            return
        column = self._by_key[key]
        self._defaults[column.name] = column, lambda _: which
        if not mapper.single or mapper.inherits is None:
            return
        classes = [m.polymorphic_identity for m in mapper.self_and_descendants]
        if len(classes) == 1:
            self._found_by = {column.name: self._value(column, which)}
            return
        for identity in classes:
            is_of = F(key) == identity
            self._classes = is_of if self._classes is None else self._classes | is_of

    def _read_version(self, mapper: Any, keys: Mapping[Any, str]) -> None:
        """Read what the ORM writes to the column that counts the versions of a row."""
        generate = mapper.version_id_generator
        key = keys.get(mapper.version_id_col)
        if key is None or not generate:
            return
        column = self._by_key[key]
        advance: Maker
        if generate.__module__ == Mapper.__module__:
            following = coalesce(F(key), 0) + 1  # as SQLAlchemy counts by itself
            advance = lambda _: following  # noqa: E731  # one of two
        else:
            stored = UnknownVersion(f"{mapper.class_.__name__}.{key}")
            advance = lambda _: generate(stored)  # noqa: E731  # likewise
        column = dataclasses.replace(column, onupdate=advance)
        self._by_key[key] = self._by_name[column.name] = column
        self._defaults[column.name] = column, lambda _: generate(None)

    def key_names(self, keys: Any) -> tuple[str, ...]:
        """Return the names of the columns that identify a row, for those of a key."""
        names = tuple(self.names(keys))
        return (*names, *(name for name in self._found_by if name not in names))

    def names(self, keys: Any) -> Any:
        """Return the names of columns for those of attributes."""
        if _is_name(keys):
            return self._name(keys)
        return [self._name(key) for key in keys]

    def keys(self, names: Any) -> Any:
        """Return names as the rows of a caller have them, for attributes and columns."""
        if _is_name(names):
            return self._key(names)
        if isinstance(names, Mapping):
            msg = f"key takes the names of columns, not {names!r}"
            raise UsageError(msg)
        return tuple(dict.fromkeys(self._key(name) for name in names))

    def call(self, arguments: Arguments) -> Arguments:
        """Translate the arguments of a call."""
        found = self._found("key", arguments.key)
        written = self._called("defaults", arguments.defaults)
        created = self._called("create_defaults", arguments.create_defaults)
        touched = self._called("touch", arguments.touch)
        updated = {**self._found_by, **found, **touched, **written}
        made = self._made({**updated, **created})
        more: dict[str, object] = {}
        if written or touched:
            more = self._on_update(updated)
        written, touched, created = map(self._written, (written, touched, created))
        if touched or arguments.skip_unchanged:
            touched |= more
        else:
            written |= more
        return arguments._replace(
            key={**self._written(found), **self._found_by},
            defaults=written,
            # A row that is created does not take what an update sets.
            create_defaults={**dict.fromkeys(more, DEFAULT), **made, **created},
            where=self._condition(arguments.where),
            touch=touched,
            returning=self._asked(arguments.returning),
        )

    def look(self, arguments: Arguments) -> Arguments:
        """Translate the arguments of a call that only reads."""
        created = self.names(arguments.create_defaults or ())
        found = self._written(self._found("key", arguments.key))
        return arguments._replace(
            key={**found, **self._found_by},
            create_defaults=dict.fromkeys(created),
            returning=self._asked(arguments.returning),
        )

    def row_call(self, arguments: Arguments) -> tuple[Arguments, OfModel]:
        """Translate the arguments of a call that has a whole row."""
        call = self.bulk_call(convert_text=False, **arguments._asdict())
        of_model: OfModel = {
            "on_update": call.pop("on_update"),
            "convert_text": call.pop("convert_text"),
            "translation": call.pop("translation"),
        }
        return Arguments(**call), of_model

    def bulk_call(
        self,
        *,
        key: Any,
        update: Update,
        create_defaults: Values | None,
        where: Any,
        touch: Values | None,
        convert_text: bool,
        returning: Any = None,
        **others: Any,
    ) -> dict[str, Value]:
        """Translate the arguments of a call for many rows."""
        keys = self.keys(key)
        keys = (keys,) if isinstance(keys, str) else keys
        if isinstance(update, Mapping):
            update = self._items("update", update)
        elif update is not None:
            update = self.names((update,) if _is_name(update) else update)
        return {
            "key": self.key_names(keys),
            "update": update,
            "create_defaults": self._items("create_defaults", create_defaults),
            "where": self._condition(where),
            "touch": self._items("touch", touch),
            "returning": self._asked(returning),
            "on_update": self._on_update(None),
            "convert_text": convert_text,
            "translation": RowTranslation(
                keys,
                partial(self._records, width=len(keys), convert_text=convert_text),
                partial(self._rows, width=len(keys), convert_text=convert_text),
                self._key,
            ),
            **others,
        }

    def sync_terms(
        self, scope: Mapping[Any, Value], marks: Mapping[Any, Value] | None, touch: Any
    ) -> SyncTerms:
        """Translate the scope and the marks of a call."""
        stored = self._written({self._name(key): v for key, v in scope.items()})
        marked = self._items("missing", marks) if marks else None
        made = {
            name: self._translated(column, make({}))
            for name, (column, make) in self._defaults.items()
            if name in (marked or ())
        }
        return SyncTerms(
            cells={self._key(key): value for key, value in scope.items()},
            scope={**stored, **self._found_by},
            classes=None if self._classes is None else self._condition(None),
            marks=marked,
            resets=made,
            updates={**self._on_update(None), **self._items("touch", touch)}
            if marks
            else {},
        )

    def _records(self, records: Records, *, width: int, convert_text: bool) -> Records:
        """
        Return rows with the names and values of the database.

        Args:
            records: The rows.
            width: How many columns the key has.
            convert_text: Whether text is left for the database to convert.
        """
        names = tuple(self._name(name) for name in records.names)
        if len({*names}) < len(names):
            msg = f"a row has a column twice: {', '.join(map(repr, records.names))}"
            raise UsageError(msg)
        columns: list[Sequence[object]] = [
            self._cells(self._by_name.get(name), cells, convert_text=convert_text)
            for name, cells in zip(names, records.columns, strict=True)
        ]
        for name, value in self._found_by.items():
            if name in names:
                at = names.index(name)
                self._check_class(columns[at], value)
                names, columns = (
                    (*names[:at], *names[at + 1 :]),
                    [*columns[:at], *columns[at + 1 :]],
                )
            # The columns of the key come first.
            names = (*names[:width], name, *names[width:])
            columns.insert(width, [value] * len(records.positions))
        return records._replace(names=names, columns=columns)

    def _check_class(self, cells: Sequence[object], value: object) -> None:
        other = next((cell for cell in cells if cell != value), value)
        if other != value:
            msg = (
                f"a row says that its class is {other!r}, but those of"
                f" {self._class.__name__} are {value!r}"
            )
            raise UsageError(msg)

    def _rows(self, records: Records, *, width: int, convert_text: bool) -> Records:
        """Return the same, with the defaults of the columns that rows lack."""
        columns: list[Sequence[object]] = [
            [cell() if callable(cell) else cell for cell in cells]
            for cells in records.columns
        ]
        written = self._records(
            records._replace(columns=columns), width=width, convert_text=convert_text
        )
        names = written.names
        lacking = [name for name in self._defaults if name not in names]
        if not lacking:
            return written
        given = tuple(self._name(name) for name in records.names)
        made = [
            [
                *self._made(
                    {**self._found_by, **dict(zip(given, row, strict=True))}
                ).values()
            ]
            for row in zip(*columns, strict=True)
        ]
        return written._replace(
            names=(*names, *lacking),
            columns=[*written.columns, *map(list, zip(*made, strict=True))],
            generated=frozenset(lacking),
        )

    def _cells(
        self, column: _Column | None, cells: Sequence[object], *, convert_text: bool
    ) -> Sequence[object]:
        """Translate the cells of a column."""
        if column is None or column.write is None:
            kinds: set[type[Any]] = set(map(type, cells))
            if not any(issubclass(kind, Expression) or _is_sql(kind) for kind in kinds):
                return cells
        if convert_text and column is not None and not column.is_text:
            # The database reads text for the type of the column.
            return [
                cell if isinstance(cell, str) else self._translated(column, cell)
                for cell in cells
            ]
        return [self._translated(column, cell) for cell in cells]

    def result(self, result: Result) -> Result:
        """Return a result with the attribute names and types of the model."""
        changed = tuple(
            self._by_name[name].key if name in self._by_name else name
            for name in result.changed
        )
        return dataclasses.replace(
            result,
            rows=tuple(map(self._read, result.rows)),
            old=None if result.old is None else self._read(result.old),
            changed=changed,
        )

    def _read(self, row: Mapping[str, Value]) -> dict[str, Value]:
        return {
            column.key if column else name: (
                column.read(value) if column and column.read else value
            )
            for name, value in row.items()
            for column in (self._by_name.get(name),)
        }

    async def objects(
        self, handle: Handle, results: Sequence[Result], options: Mapping[str, object]
    ) -> list[Result]:
        """Return results whose rows are the session's objects, fresh."""
        session = session_of(handle)
        read = [self.result(result) for result in results]
        rows = [row for result in read for row in result.rows]
        await self._refresh(session, rows, options, expired=True)
        found = {"bind_arguments": {**bind_arguments_of(self._class)}}

        def load(sync: Handle) -> list[Result]:
            with sync.no_autoflush:
                # Those that are not loaded, at once; they stay loaded while kept here.
                kept = [
                    sync.scalars(query, execution_options=options, **found).all()
                    for query in self._queries(rows if len(rows) > 1 else ())
                ]
                loaded = [
                    dataclasses.replace(
                        result,
                        rows=tuple(
                            sync.get(
                                self._class,
                                self._identity_of(row),
                                execution_options=options,
                                **found,
                            )
                            for row in result.rows
                        ),
                        old=None if result.old is None else self._instance(result.old),
                    )
                    for result in read
                ]
                del kept
                return loaded

        loaded: list[Result] = await session.run_sync(load)
        return loaded

    def _queries(self, rows: Sequence[Mapping[str, Value]]) -> Iterator[Any]:
        """Yield queries for the objects of rows."""
        key = [self._attributes[name] for name in self.identity]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            keys = [self._identity_of(row) for row in some]
            yield sa.select(self._class).where(with_keys(key, keys))

    def row_class(self, cls: type[object]) -> RowClass:
        """Return how instances of a class are made; of the mapped class transient ones."""
        if cls is self._class:
            return RowClass(tuple(self._attributes), self._instance)
        return row_class(cls)

    def _instance(self, row: Mapping[str, Value]) -> object:
        instance: object = self._mapper.class_manager.new_instance()
        for key, value in row.items():
            set_committed_value(instance, key, value)
        return instance

    def default_returning(self, handle: Handle, returning: Returning) -> Returning:
        """Return the mapped class over a session, and *returning* elsewhere."""
        if self._class is None or session_of(handle) is None:
            return returning
        mapped: type[object] = self._class
        return mapped

    def has_loaded(self, handle: Handle) -> bool:
        """Return whether a session has objects of the class, or flushes some."""
        session = session_of(handle)
        if session is None or self._mapper is None:
            return False
        return any(isinstance(new, self._class) for new in session.new) or bool(
            loaded_states(session, self._mapper)
        )

    def with_identity(self, returning: Any) -> Any:
        """Return what is asked for, and the primary key, if it is not all."""
        if isinstance(returning, str) and returning == "*":
            return returning
        if returning is None:
            return self.identity
        asked = [returning] if _is_name(returning) else [*returning]
        names = {self._name(name) for name in asked}
        return [*asked, *(k for k in self.identity if self._name(k) not in names)]

    async def synchronize(
        self,
        handle: Handle,
        result: Result,
        returning: Any,
        options: Mapping[str, object],
    ) -> Result:
        """Refresh the objects of written rows; return only what was asked for."""
        read = self.result(result)
        if result.action is Action.UPDATED:
            await self._refresh(session_of(handle), read.rows, options)
        if returning is None:
            return dataclasses.replace(read, rows=(), old=None)
        if isinstance(returning, str) and returning == "*":
            return read
        asked = self.names([returning] if _is_name(returning) else returning)
        keys = [
            self._by_name[name].key if name in self._by_name else name for name in asked
        ]
        rows = tuple({key: row[key] for key in keys} for row in read.rows)
        old = None if read.old is None else {key: read.old[key] for key in keys}
        return dataclasses.replace(read, rows=rows, old=old)

    async def synchronize_all(
        self, handle: Handle, options: Mapping[str, object], *, removed: bool
    ) -> None:
        """
        Refresh all objects of the class that a session has loaded.

        Args:
            handle: The session.
            options: Execution options.
            removed: Whether objects without a row leave the session.
        """
        session = session_of(handle)
        gone = await self._refresh(session, None, options)
        if removed and gone:
            session.sync_session._remove_newly_deleted(gone)  # noqa: SLF001  # as its own DELETE does

    def expire_all(self, handle: Handle) -> None:
        """Expire all objects of the class that a session has loaded, but for their keys."""
        session = session_of(handle)
        names = [name for name in self._attributes if name not in self.identity]
        expire(session, loaded_states(session, self._mapper), names)

    async def _refresh(
        self,
        session: Handle,
        rows: Sequence[Mapping[str, Value]] | None,
        options: Mapping[str, object],
        *,
        expired: bool = False,
    ) -> list[Value]:
        states = loaded_states(session, self._mapper)
        arguments = {**bind_arguments_of(self._class)}
        dialect = session.sync_session.get_bind(**arguments).dialect.name
        spell = spelling([self._attributes[name] for name in self.identity], dialect)
        if rows is not None:
            written = {spell(self._identity_of(row)) for row in rows}
            states = [state for state in states if spell(state.key[1]) in written]
        if not states:
            return []
        return await refresh(
            await session.connection(bind_arguments=arguments),
            states,
            self._attributes,
            self.identity,
            spell,
            options=options,
            expired=expired,
        )

    def _identity_of(self, row: Mapping[str, Value]) -> tuple[Value, ...]:
        return tuple(row[key] for key in self.identity)

    def wants_objects(self, handle: Handle, returning: Any) -> bool:
        """Return whether objects of the session are asked for."""
        return (
            isinstance(returning, type)
            and returning is self._class
            and session_of(handle) is not None
        )

    def _name(self, key: Any) -> Any:
        """Return the name of a column; an unknown one is left for the plan to refuse."""
        key = self._key(key)
        column = self._by_key.get(key)
        if column is not None:
            return column.name
        if self._mapper is not None and key not in self._by_name:
            self._refuse_other(key)
        return key

    def _key(self, name: Any) -> Any:
        """
        Return the name of an attribute, given that or the attribute or column itself.

        Raises:
            UsageError: It is a column of another table.
        """
        if isinstance(name, str) or not _is_sql(name.__class__):
            return name
        element: Any = getattr(name, "__clause_element__", lambda: name)()
        key = self._keys.get(element)
        if key is None:
            if getattr(name, "class_", None) is self._class is not None:
                self._refuse_other(name.key)
            msg = f"{name} is not a column of {'.'.join(self._label)}"
            raise UsageError(msg)
        return key

    def _refuse_other(self, key: Any) -> None:
        """
        Refuse an attribute that is not a column.

        Raises:
            UsageError: It is one.
        """
        if key not in self._mapper.all_orm_descriptors:
            return
        attribute = self._mapper.attrs.get(key)
        if isinstance(attribute, SynonymProperty):
            attribute = self._mapper.attrs.get(attribute.name)
        columns: Iterable[Any] = ()
        if isinstance(attribute, RelationshipProperty):
            columns = attribute.local_columns
        elif isinstance(attribute, CompositeProperty):
            columns = attribute.columns
        names = sorted(self._keys[column] for column in columns)
        instead = ", ".join(map(repr, names)) or "the columns that it is computed from"
        msg = f"{self._class.__name__}.{key} is not a column; name {instead}"
        raise UsageError(msg)

    def _asked(self, returning: Any) -> Any:
        if returning is None:
            return None
        names = returning
        if not isinstance(returning, str) or returning != "*":
            names = self.names(returning)
        asked = {names} if isinstance(names, str) else {*names}
        wrong = self._read_by_sql & (self._read_by_sql if names == "*" else asked)
        if wrong:
            msg = (
                f"returning: the type of {', '.join(map(repr, sorted(wrong)))} reads values"
                " through SQL (column_expression), which is not done here; ask for the"
                " class, over a session, or for other columns"
            )
            raise UsageError(msg)
        return names

    def _given(self, argument: str, items: object) -> dict[str, object]:
        """Return values by the names of their columns."""
        named = [*pairs(argument, items)]
        given = {self._name(key): value for key, value in named}
        if len(given) < len(named):
            keys = ", ".join(str(key) for key, _ in named)
            msg = f"{argument} has a column twice: {keys}"
            raise UsageError(msg)
        return given

    def _found(self, argument: str, items: object) -> dict[str, object]:
        """Return what identifies a row; the class of it need not be said."""
        given = self._given(argument, items)
        for name, value in self._found_by.items():
            if name in given:
                written = self._value(self._by_name[name], given.pop(name))
                self._check_class([written], value)
        return given

    def _called(self, argument: str, items: Values | None) -> dict[str, object]:
        """Return the same, with callables called."""
        given = {} if items is None else self._given(argument, items)
        return {n: value() if callable(value) else value for n, value in given.items()}

    def _written(self, given: Values) -> dict[str, object]:
        """Return the values as the driver takes them."""
        return {
            name: self._translated(self._by_name.get(name), value)
            for name, value in given.items()
        }

    def _items(self, argument: str, items: Values | None) -> dict[str, object]:
        return self._written(self._called(argument, items))

    def _translated(self, column: _Column | None, value: object) -> object:
        """Return a value, or an expression with its values, as the driver takes it."""
        if isinstance(value, Expression):
            return self._expression(value)
        return self._value(column, value)

    def _value(self, column: _Column | None, value: object) -> object:
        if _is_sql(value.__class__):
            msg = (
                f"{value} is an expression of SQLAlchemy, which has no value on create;"
                ' write it with F("column"), Excluded("column") or SQL("...")'
            )
            raise UsageError(msg)
        return value if column is None or column.write is None else column.write(value)

    def _condition(self, where: Any) -> Any:
        if not isinstance(where, Expression) and _is_sql(where.__class__):
            where = condition_of(where, self._key)
        if self._classes is not None and (
            where is None or isinstance(where, Expression)
        ):
            where = self._classes if where is None else self._classes & where
        return self._expression(where) if isinstance(where, Expression) else where

    def _expression(self, expression: Expression) -> Expression:
        """Name the columns of an expression, and translate what stands beside them."""
        values: list[object] = []
        try:
            node = self._node(expression.node, iter(expression.values), values, None)
        except RecursionError as exc:
            raise UsageError(TOO_DEEP) from exc
        return Expression(node, tuple(values))

    def _node(
        self,
        node: Node,
        given: Iterator[object],
        values: list[object],
        beside: _Column | None,
    ) -> Node:
        kind, name, operands = node
        if kind in {"column", "excluded"}:
            return kind, self._name(name), operands
        if kind == "literal":
            value = next(given)
            values.append(self._value(beside, value))
            if beside is None or (isinstance(value, bool) and values[-1] == value):
                return node  # to SQLite a boolean is a number
            return kind, literal_kind(values[-1]), ()
        # What is added to a date is none, but an amount is written as amounts are.
        is_sum = name in ARITHMETIC and _has_decimal(operands)
        key = column_beside(node) if is_sum or name in SAME_TYPE else None
        beside = None if key is None else self._by_name.get(self._name(key))
        if operands and operands[-1][0] == "literal" and operands[-1][1] in MEMBERS:
            first = self._node(operands[0], given, values, beside)
            members = cast("Sequence[object]", next(given))
            nodes, added = literals_of_members(
                [self._value(beside, member) for member in members]
            )
            values += added
            return kind, name, (first, *nodes)
        done = (self._node(operand, given, values, beside) for operand in operands)
        return kind, name, tuple(done)

    def _made(self, given: Values) -> dict[str, object]:
        """Return the defaults of columns that are not given; each sees those before it."""
        seen = self._keyed(given)
        made: dict[str, object] = {}
        for name, (column, make) in self._defaults.items():
            if name not in given:
                value = seen[name] = seen[column.key] = make(seen)
                made[name] = self._translated(column, value)
        return made

    def _on_update(self, given: Values | None) -> dict[str, object]:
        """Return what an update sets by onupdate."""
        seen = None if given is None else self._keyed(given)
        return {
            name: self._translated(column, column.onupdate(seen))
            for name, column in self._by_name.items()
            if column.onupdate is not None and name not in (given or ())
        }

    def _keyed(self, given: Values) -> dict[str, object]:
        """Return values by the names of columns and by those of attributes."""
        keys = {n: c.key for n, c in self._by_name.items() if n in given}
        return {**given, **{key: given[name] for name, key in keys.items()}}


def _is_name(given: Any) -> bool:
    """Return whether one name is given: a string, an attribute or a column."""
    return isinstance(given, str) or _is_sql(given.__class__)


def _is_sql(cls: type[Any]) -> bool:
    """Return whether values of a class are expressions of SQLAlchemy."""
    return issubclass(cls, sa.ClauseElement) or hasattr(cls, "__clause_element__")


def _has_decimal(operands: Sequence[Node]) -> bool:
    return ("literal", "decimal", ()) in operands


def _read_column(
    column: sa.Column[Any], key: str, dialect: Dialect, schemas: Mapping[Any, Any]
) -> _Column:
    kind = column.type.dialect_impl(dialect)
    if getattr(column.type, "_has_bind_expression", False):
        msg = (
            f"the type of {column} writes SQL around its values (bind_expression), which"
            " cannot be used here; pass the table's name instead"
        )
        raise UsageError(msg)
    return _Column(
        column.name,
        key,
        isinstance(_plain(column.type), sa.String),
        kind.bind_processor(dialect),
        kind.result_processor(dialect, _oid_of(kind)),
        maker_of(f"default of {column}", column.default, dialect, schemas),
        maker_of(f"onupdate of {column}", column.onupdate, dialect, schemas),
    )


# PostgreSQL, "pg_type": SQLAlchemy asks for the type that the server announced.
_FLOAT8, _NUMERIC = 701, 1700


def _oid_of(kind: Any) -> int:
    return _FLOAT8 if isinstance(_plain(kind), sa.Float) else _NUMERIC


def _plain(kind: Any) -> Any:
    """Return the type inside a type that decorates it."""
    decorated: Any = kind
    while isinstance(kind, cast("type", sa.TypeDecorator)):
        kind = decorated = decorated.impl
    return decorated


_models: Final[WeakKeyDictionary[Any, dict[tuple[object, ...], Model]]] = (
    WeakKeyDictionary()
)


def model_of(handle: Handle, table: Any, options: Mapping[str, object]) -> Model | None:
    """
    Return what SQLAlchemy knows of a table, or None if it is not a table of SQLAlchemy's.

    Raises:
        UsageError: It is one that cannot be written as one table.
    """
    mapper = mapper_of(table)
    if mapper is None and not isinstance(table, sa.Table):
        return None
    written = _table_of(table, mapper)
    bind = bind_of(handle, table)
    dialect: Any = _dialect_of(handle, bind)
    options = {**options_of(handle, bind), **options}
    schemas: Any = options.get("schema_translate_map")
    translated: dict[str | None, str | None] = {**schemas} if schemas else {}
    known = _models.setdefault(table, {})
    # What else makes the types of two engines of one kind differ.
    own = dialect.__dict__
    json = own.get("_json_serializer"), own.get("_json_deserializer")
    kind = (dialect.__class__, *json, *translated.items())
    model = known.get(kind)
    if model is None:
        model = known[kind] = Model(written, mapper, dialect, translated)
    return model


def _table_of(table: Any, mapper: Any) -> Any:
    if mapper is None:
        return table
    if len(mapper.tables) > 1 or not isinstance(
        mapper.local_table, cast("type", sa.Table)
    ):
        msg = (
            f"{mapper.class_.__name__} is mapped to more than one table; pass the Table"
            " to write"
        )
        raise UsageError(msg)
    return mapper.local_table


def _dialect_of(handle: Handle, bind: Any) -> Dialect:
    dialect: Any = getattr(bind, "dialect", None)
    if dialect is None:
        is_pool(handle)  # raises an error if it is not a connection
        modules = (cls.__module__.partition(".")[0] for cls in type(handle).__mro__)
        dialect = _plain_dialect(next(name for name in modules if name in _PLAIN))
    return cast("Dialect", dialect)


# Of the drivers' own connections, by the module of their class.
_PLAIN: Final = {
    "aiosqlite": "sqlite+aiosqlite://",
    "asyncpg": "postgresql+asyncpg://",
    "psycopg": "postgresql+psycopg://",
    "psycopg_pool": "postgresql+psycopg://",
}


@cache
def _plain_dialect(driver: str) -> Dialect:
    return make_url(_PLAIN[driver]).get_dialect(_is_async=True)()
