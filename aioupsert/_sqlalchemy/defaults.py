"""
The defaults and onupdate values that SQLAlchemy makes in Python when it writes a row.

A default is a value, a function of the row's other values, or an expression for the
database; each becomes a function of those values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from aioupsert.errors import UsageError
from aioupsert.expressions import SQL

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import Dialect

Maker: TypeAlias = Callable[["Mapping[str, Any] | None"], Any]
"""Returns a default, given the values of the row, or None where they are not known."""


class _Context:
    """What SQLAlchemy passes to the function of a default."""

    def __init__(self, label: str, parameters: Mapping[str, Any] | None) -> None:
        self._label = label
        self._parameters = parameters

    @property
    def current_parameters(self) -> Mapping[str, Any]:
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


def maker_of(label: str, default: Any, dialect: Dialect) -> Maker | None:
    """Return what makes a default, or None if the database has to."""
    if default is None:
        return None
    if default.is_callable:
        make: Any = default.arg
        return lambda given: make(_Context(label, given))
    if default.is_scalar:
        value: Any = default.arg
        return lambda _: value
    if default.is_sequence:
        if not dialect.supports_sequences:
            return None
        default = default.next_value()
    else:
        default = default.arg
    text = str(default.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    if dialect.paramstyle in {"format", "pyformat"}:
        text = text.replace("%%", "%")  # SQLAlchemy doubled them for the driver
    expression = SQL(text.replace("{", "{{").replace("}", "}}"))
    return lambda _: expression
