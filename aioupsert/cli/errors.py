"""What the command line says and exits with."""

from __future__ import annotations


class LoadError(Exception):
    """The load has failed; the message is for the user."""


def words(error: BaseException) -> str:
    """Say what an error says; some say nothing but their name."""
    return str(error) or type(error).__name__
