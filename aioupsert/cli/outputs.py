"""Output files: checked against what is read, and written under a temporary name."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final

from aioupsert.cli.errors import LoadError, message_of

_STDIN: Final = Path("-")
# The files that SQLite has beside a database.
_SQLITE_SUFFIXES: Final = ("", "-journal", "-wal", "-shm")


def check_output(
    option: str, output: Path, inputs: Iterable[Path], database: Path | None
) -> None:
    """
    Check that writing a file destroys nothing that the command reads or stores.

    Args:
        option: The option that names the file, for the message.
        output: The file to be written.
        inputs: The files to be read; ``-`` is standard input.
        database: The file of the database, if it is one.

    Raises:
        ValueError: It is one of these files, by whatever name or link.
    """
    for file in inputs:
        if _is_same(output, file):
            name = "standard input" if file == _STDIN else file
            msg = f"{option} {output} would overwrite the input {name}"
            raise ValueError(msg)
    for suffix in _SQLITE_SUFFIXES if database is not None else ():
        file = Path(f"{database}{suffix}")
        if _is_same(output, file):
            msg = f"{option} {output} would overwrite the database {file}"
            raise ValueError(msg)


def _is_same(output: Path, file: Path) -> bool:
    """Return whether two names are those of one file, or would be."""
    try:
        if file == _STDIN:
            found = os.fstat(sys.stdin.fileno())
            return stat.S_ISREG(found.st_mode) and os.path.samestat(
                output.stat(), found
            )
        return output.samefile(file)
    except (OSError, ValueError):  # one of them does not exist
        return os.path.realpath(output) == os.path.realpath(file) and file != _STDIN


class OutputFile:
    """
    A file that replaces an older one only once it is finished.

    What exists and is not a regular file, such as a pipe or ``/dev/stderr``, is written
    to directly.

    Attributes:
        path: The name of the file.
        binary: The open file.
        is_regular: Whether it is, or will be, a regular file.
    """

    def __init__(self, path: Path) -> None:
        """
        Open the file under a temporary name.

        Raises:
            LoadError: It cannot be written.
        """
        self.path = path
        try:
            # The file that a symbolic link points to is replaced, not the link.
            self._target = path.resolve()
            self.is_regular: bool = not path.exists() or path.is_file()
            if self.is_regular:
                name = f".{path.name}.{secrets.token_hex(4)}.tmp"
                self._temporary = self._target.with_name(name)
                self.binary: IO[bytes] = self._temporary.open("xb")
            else:
                self.binary = path.open("wb")
        except (OSError, RuntimeError, ValueError) as exc:
            raise cannot_write(path, exc) from exc

    def finish(self, *, keep: bool) -> None:
        """
        Close the file, and give it its name or, if it is not to be kept, remove it.

        Raises:
            LoadError: Writing the rest of it failed.
        """
        try:
            self.binary.close()
            if self.is_regular and keep:
                if self._target.exists():
                    shutil.copymode(self._target, self._temporary)
                self._temporary.replace(self._target)
        except OSError as exc:
            raise cannot_write(self.path, exc) from exc
        finally:
            if self.is_regular:
                self._temporary.unlink(missing_ok=True)


def cannot_write(path: Path, error: Exception) -> LoadError:
    """Return the error of a file that cannot be written."""
    reason = getattr(error, "strerror", None) or message_of(error)
    return LoadError(f"cannot write {path}: {reason}")
