"""
The predicates of partial unique indexes.

Both databases report a predicate as SQL text. One form of it is understood here: tests of
columns that are joined by AND, each of which is ``a``, ``NOT a``, ``a = constant``, ``a IS
NULL`` or ``a IS NOT NULL``. An index with such a predicate makes a key unique whose values
pass the tests. Any other partial index makes no key unique.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

from aioupsert._plan.schema import Pin

_WORDS: Final = re.compile(
    r"""\s*(?: (?P<text>'(?:[^']|'')*')
      | (?P<quoted>"(?:[^"]|"")+")
      | (?P<number>-?\d+(?![\w.]))
      | (?P<name>[^\W\d][\w$]*)
      | (?P<sign>::|==|=|\(|\)|\.|,) )""",
    re.VERBOSE,
)
_KEYWORDS: Final = frozenset({"AND", "NOT", "IS", "NULL", "TRUE", "FALSE"})
_NUMBER: Final = re.compile(r"-?\d+")
_NUMBERS: Final = frozenset({"integer", "bigint", "smallint", "numeric"})


def read_predicate(
    predicate: str | None, texts: Container[str] = ()
) -> tuple[Pin, ...]:
    """
    Return what a predicate requires of columns; () if it is of another form.

    Args:
        predicate: The predicate, or None.
        texts: The columns of text, which a cast to text does not change.
    """
    if predicate is None:
        return ()
    try:
        return tuple(_Parser(predicate, texts).pins())
    except _OtherFormError:
        return ()


class _OtherFormError(Exception):
    """The predicate is not of the form that is understood."""


class _Parser:
    """Reads the tests of one predicate, from left to right."""

    def __init__(self, predicate: str, texts: Container[str]) -> None:
        self._texts = texts
        self._words: list[tuple[str, str]] = []
        end = 0
        text = predicate.strip()
        while end < len(text):
            found = _WORDS.match(text, end)
            if found is None or found.lastgroup is None:
                raise _OtherFormError
            kind, word = found.lastgroup, found[found.lastgroup]
            if kind == "name" and word.upper() in _KEYWORDS:
                kind, word = "sign", word.upper()
            self._words.append((kind, word))
            end = found.end()
        self._words.append(("end", ""))
        self._words.reverse()

    def pins(self) -> list[Pin]:
        found = self._conjunction()
        if self._words[-1][0] != "end":
            raise _OtherFormError
        return found

    def _conjunction(self) -> list[Pin]:
        found = self._test()
        while self._take("AND"):
            found += self._test()
        return found

    def _test(self) -> list[Pin]:
        if self._take("NOT"):
            return [Pin(self._column(self._operand()), value=False)]
        left = self._operand()
        if self._take("=") or self._take("=="):
            return [self._equal(left, self._operand())]
        if not self._take("IS"):
            return left
        column = self._column(left)
        if self._take("NULL"):
            return [Pin(column, is_null=True)]
        if self._take("NOT"):
            self._expect("NULL")
            return [Pin(column)]
        return [self._equal(left, self._operand())]

    def _operand(self) -> list[Pin]:
        """Read a column, as a test that it is true; a constant; or tests in parentheses."""
        kind, word = self._words.pop()
        found: list[Pin]
        if kind in {"name", "quoted"}:
            name = word[1:-1].replace('""', '"') if kind == "quoted" else word
            found = [Pin(name, value=True)]
        elif kind == "text":
            found = [Pin("", value=word[1:-1].replace("''", "'"))]
        elif kind == "number":
            found = [Pin("", value=int(word))]
        elif word in {"TRUE", "FALSE"}:
            found = [Pin("", value=word == "TRUE")]
        elif word == "(":
            found = self._conjunction()
            self._expect(")")
        else:
            raise _OtherFormError
        return self._cast(found) if self._take("::") else found

    def _cast(self, operand: list[Pin]) -> list[Pin]:
        """Read a type; it must leave a column as it is, and may make text a number."""
        type_ = self._name()
        if self._take("."):
            type_ = self._name()
        if self._words[-1] in {("name", "varying"), ("name", "precision")}:
            self._words.pop()
        if self._take("("):
            while not self._take(")"):
                if self._words.pop()[0] == "end":
                    raise _OtherFormError
        if len(operand) != 1:
            raise _OtherFormError
        ((name, _, value),) = operand
        if name and (type_ != "text" or name not in self._texts):
            raise _OtherFormError
        if isinstance(value, str) and type_ in _NUMBERS and _NUMBER.fullmatch(value):
            return [Pin("", value=int(value))]
        return operand

    def _equal(self, one: list[Pin], other: list[Pin]) -> Pin:
        """Return the test that a column has a constant value; either may come first."""
        if len(one) == len(other) == 1:
            for left, right in ((one[0], other[0]), (other[0], one[0])):
                if left.column and left.value is True and not right.column:
                    return Pin(left.column, value=right.value)
        raise _OtherFormError

    def _column(self, operand: list[Pin]) -> str:
        if len(operand) == 1:
            column, _, value = operand[0]
            if column and value is True:
                return column
        raise _OtherFormError

    def _name(self) -> str:
        kind, word = self._words.pop()
        if kind not in {"name", "quoted"}:
            raise _OtherFormError
        return word

    def _take(self, sign: str) -> bool:
        if self._words[-1] != ("sign", sign):
            return False
        self._words.pop()
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _OtherFormError
