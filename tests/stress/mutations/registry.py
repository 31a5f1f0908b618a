"""
The faults that can be injected, and a count of how often one was reached.

A fault is a small function. Its docstring says what it breaks, its decorator which tests
should notice, and what the function is: a change of the statements that reach a driver,
of the errors that come back, or of an object that the library cannot rename.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from tests.stress.mutations import borders

F = TypeVar("F", bound=Callable[..., Any])

Statement: TypeAlias = Callable[[str], str]
Failure: TypeAlias = Callable[[Exception, str], Exception | None]


class Mutation(NamedTuple):
    """
    One way to break the library.

    Attributes:
        name: The function's name, which the option --mutation takes.
        title: What is broken.
        tests: Which tests should notice, as pytest takes them.
        commit: The commit that fixed this fault once; empty if it never was there.
        install: Breaks the library, in this process.
    """

    name: str
    title: str
    tests: tuple[str, ...]
    commit: str
    install: Callable[[], None]


MUTATIONS: Final[dict[str, Mutation]] = {}


def changes_statements(
    *tests: str, commit: str = ""
) -> Callable[[Statement], Statement]:
    """Register a function that changes the SQL which the library sends to a driver."""

    def register(change: Statement) -> Statement:
        def counted(sql: str) -> str:
            changed = change(sql)
            if changed != sql:
                REACHED.add()
            return changed

        _register(change, tests, commit, lambda: borders.change_statements(counted))
        return change

    return register


def changes_errors(*tests: str, commit: str = "") -> Callable[[Failure], Failure]:
    """Register a function that changes the error of a statement; None swallows it."""

    def register(change: Failure) -> Failure:
        def counted(error: Exception, sql: str) -> Exception | None:
            changed = change(error, sql)
            if changed is not error:
                REACHED.add()
            return changed

        _register(change, tests, commit, lambda: borders.change_errors(counted))
        return change

    return register


def changes_objects(*tests: str, commit: str = "") -> Callable[[F], F]:
    """Register a function that replaces attributes of objects, and counts by itself."""

    def register(install: F) -> F:
        _register(install, tests, commit, install)
        return install

    return register


def _register(
    function: Callable[..., Any],
    tests: tuple[str, ...],
    commit: str,
    install: Callable[[], None],
) -> None:
    title = re.sub(r"\s+", " ", function.__doc__ or "").strip()
    assert title.endswith("."), function
    assert tests, function
    name = function.__name__
    assert name not in MUTATIONS, name
    MUTATIONS[name] = Mutation(name, title[:-1], tests, commit, install)


class Reached:
    """
    Counts how often the fault was reached, by test.

    A file has a line for each test, so that the count survives a test that hangs and is
    killed.
    """

    def __init__(self) -> None:
        self._file: int | None = None

    def open(self, path: str) -> None:
        """Begin to count in this file."""
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def begin_test(self) -> None:
        """Begin at zero."""
        self._write(b"\n")

    def add(self) -> None:
        """Count one."""
        self._write(b".")

    def _write(self, text: bytes) -> None:
        if self._file is not None:
            os.write(self._file, text)


REACHED: Final = Reached()


def called_by_library() -> bool:
    """Return whether the caller's caller is the library itself."""
    name: str = sys._getframe(2).f_globals["__name__"]
    return name.startswith("aioupsert")


def replace(owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
    """
    Replace an attribute by what a function makes of it.

    Raises:
        AttributeError: The owner has no such attribute.
    """
    setattr(owner, name, replacement(getattr(owner, name)))
