"""Exit codes, and errors whose message is for the user."""

from __future__ import annotations

import re
import signal
import unicodedata
from typing import Final

FAILED: Final = 1
"""Exit code: the command failed; nothing, or not everything, was stored."""
REJECTED: Final = 3
"""Exit code: some rows were rejected, and all others stored."""


class LoadError(Exception):
    """A command failed; the message is for the user."""


class TransientLoadError(LoadError):
    """The whole load failed, and may succeed if it is made again."""


class InterruptedLoadError(KeyboardInterrupt):
    """
    A signal ended the load; the message is for the user.

    Attributes:
        number: The number of the signal.
        exit_code: 128 plus the number, as in a shell.
    """

    def __init__(self, message: str, number: int) -> None:
        """Keep the message."""
        super().__init__(message)
        self.number: int = number
        self.exit_code: int = 128 + number

    def with_message(self, message: str) -> InterruptedLoadError:
        """Return the same with another message."""
        return InterruptedLoadError(message, self.number)


INTERRUPTED: Final = 128 + signal.SIGINT
"""Exit code: interrupted before anything was done."""


def message_of(error: BaseException) -> str:
    """Return the message of an error, or the name of its type if it has none."""
    # psycopg quotes the statement after the message; asyncpg does not.
    report = getattr(error, "diag", None)
    if report is not None and report.message_primary is not None:
        parts = {"DETAIL": report.message_detail, "HINT": report.message_hint}
        lines = [f"{name}:  {text}" for name, text in parts.items() if text is not None]
        return "\n".join([report.message_primary, *lines])
    return str(error) or type(error).__name__


# The password in a URL, however it was mistyped, and in the parameters of one.
_IN_URL: Final = re.compile(r"(\w:/{1,3}[^\s:/@]*:)\S+@")
_PARAMETER: Final = re.compile(r"(?i)\b((?:ssl)?password=)[^\s&'\"]+")
# Characters that change the direction of what is shown after them.
_DIRECTIONS: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Return text that a terminal shows as it is: without control characters."""
    return "".join(
        _escaped(c) if c in _DIRECTIONS or unicodedata.category(c) == "Cc" else c
        for c in text
    )


def _escaped(character: str) -> str:
    if character == "\n":
        return character
    return character.encode("unicode_escape").decode()


def without_password(text: str) -> str:
    """Return text in which the password of a URL is replaced by stars."""
    text = _IN_URL.sub(r"\1***@", text)
    return _PARAMETER.sub(r"\1***", text)
