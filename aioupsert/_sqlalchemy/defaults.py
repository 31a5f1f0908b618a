"""
The defaults and onupdate values that SQLAlchemy makes in Python when it writes a row.

A default is a value, a function of the row's other values, or an expression for the
database; each becomes a function of those values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import sqlalchemy as sa

from aioupsert.errors import UsageError
from aioupsert.expressions import SQL
from aioupsert.typing import Value

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

Maker: TypeAlias = Callable[["Mapping[str, Value] | None"], Any]
"""Returns a default, given the values of the row, or None where they are not known."""


class _Context:
    """What SQLAlchemy passes to the function of a default."""

    def __init__(self, label: str, parameters: Mapping[str, Value] | None) -> None:
        self._label = label
        self._parameters = parameters

    @property
    def current_parameters(self) -> Mapping[str, Value]:
        """
        The values of the row.

        Raises:
            UsageError: They are not known.
        """
        if self._parameters is None:
            msg = (
                f"{self._label} asks for the values of the row, which differ from row to"
                " row here; give it a value in every row"
            )
            raise UsageError(msg)
        return self._parameters

    def get_current_parameters(self, *, isolate_multiinsert_groups: bool = True) -> Any:
        """Return the values of the row."""
        del isolate_multiinsert_groups  # a row is one here
        return self.current_parameters


class UnknownVersion:
    """
    The stored version of a row, which only the database knows.

    A generator of versions that does not look at it can be used, such as one of random
    texts.
    """

    def __init__(self, label: str) -> None:
        """Stand for the version of this attribute."""
        self._label = label

    def _refuse(self, *_: object) -> Any:
        msg = (
            f"the version_id_generator of {self._label} computes from the stored version,"
            " which only the database knows; write the next version yourself, as with"
            ' defaults={"version": F("version") + 1}'
        )
        raise UsageError(msg)

    __bool__ = __int__ = __index__ = __float__ = __iter__ = __len__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __mod__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = _refuse
    __hash__ = __str__ = __repr__ = __format__ = __bytes__ = _refuse

    def __getattr__(self, name: str) -> Any:
        """Refuse whatever else is asked of it."""
        return self._refuse(name)


def maker_of(
    label: str, default: Any, dialect: Dialect, schemas: Mapping[Any, Any]
) -> Maker | None:
    """Return what makes a default, or None if the database has to."""
    if default is None:
        return None
    if default.is_callable:
        make: Any = default.arg
        return lambda given: make(_Context(label, given))
    if default.is_scalar:
        value: Value = default.arg
        return lambda _: value
    if default.is_sequence:
        if not dialect.supports_sequences:
            return None
        schema = schemas.get(default.schema, default.schema)
        default = sa.Sequence(default.name, schema=schema).next_value()
    else:
        default = default.arg
    text = str(default.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if dialect.paramstyle in {"format", "pyformat"}:
        text = text.replace("%%", "%")  # SQLAlchemy doubled them for the driver
    expression = SQL(text.replace("{", "{{").replace("}", "}}"))
    return lambda _: expression
