"""What a call asks for, read from its arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from aioupsert._execution.targets import Target
from aioupsert._plan import RequestShape, pairs, read_request
from aioupsert._plan.request import Arguments
from aioupsert.errors import UsageError

# More than any program has calls in its source code.
_MAX_SHAPES: Final = 256


class RequestReader:
    """Reads calls whose keys have the same columns, in any order."""

    def __init__(self, target: Target, key: Sequence[str]) -> None:
        """Read calls for a table, whose keys have these columns."""
        self._target = target
        self._key = key
        # Equal shapes are one object: fewer for the garbage collector to traverse, and
        # quicker to compare.
        self._shapes: dict[RequestShape, RequestShape] = {}
        # The last one, which is often that of the next call.
        self._last: RequestShape | None = None

    def read(self, arguments: Arguments) -> tuple[RequestShape, list[object]]:
        """
        Return the request shape of a call, and its values, the key's first.

        Raises:
            UsageError: The arguments are wrong.
        """
        key = arguments.key
        if key and arguments.row is None and self._target.model is None:
            shape, values = read_request(arguments)  # as most calls are
        else:
            arguments = self._with_key(arguments)
            self._target.check_without_session(arguments.returning)
            shape, values = self._target.read(arguments)
        shared = self._last
        if shape != shared:  # quicker to see than to find it
            shared = self._last = self._shapes.get(shape)
        if shared is not None:
            return shared, values
        # The shape has the key's columns in the order of the coalescer's, or is new.
        given = self._key if arguments.row is not None else self._check_key(key)
        order = [*map(given.index, self._key)]
        columns = shape[0]
        order += range(len(order), len(columns))  # what a model adds to every key
        shape = (tuple([columns[at] for at in order]), *shape[1:])
        if len(self._shapes) >= _MAX_SHAPES:
            self._shapes.clear()
        shape = self._shapes.setdefault(shape, shape)
        return shape, [*(values[at] for at in order), *values[len(order) :]]

    def _with_key(self, arguments: Arguments) -> Arguments:
        """Return the arguments with the key that a row has, or any other call."""
        key = arguments.key
        if arguments.row is None:
            if not key:
                self._check_key(key)
            return arguments
        if key:
            msg = "a row has its key, which is the coalescer's: pass one of them"
            raise UsageError(msg)
        return arguments._replace(key=self._key)

    def _check_key(self, key: object) -> list[str]:
        """Return the columns of a call's key, which must be the coalescer's."""
        model = self._target.model
        given = [
            name if model is None else model.keys(name) for name, _ in pairs("key", key)
        ]
        if len(given) != len(self._key) or not {*self._key}.issuperset(given):
            msg = (
                f"key must have {', '.join(map(repr, self._key))}, as the coalescer's,"
                f" not {', '.join(map(repr, given))}"
            )
            raise UsageError(msg)
        return given
