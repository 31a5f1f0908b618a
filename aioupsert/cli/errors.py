"""What the command line says and exits with."""

from __future__ import annotations


class LoadError(Exception):
    """Nothing was stored; the message is for the user."""
