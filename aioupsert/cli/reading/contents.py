"""What a file is by its first bytes: packed, of a format, or nothing to be read."""

from __future__ import annotations

import bz2
import codecs
import gzip
import importlib
import io
import lzma
import re
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Final, cast

from aioupsert.cli.errors import LoadError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _KeptOpen(io.RawIOBase):
    """Reads another file, and does not close it when it is closed itself."""

    def __init__(self, binary: IO[bytes]) -> None:
        self._binary = binary

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        return self._binary.read(size)


def _open_zstd(binary: IO[bytes]) -> Any:
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as exc:
        msg = (
            "reading zstd needs pyarrow: pip install 'aioupsert[parquet]', or use"
            " zstd -dc FILE | aioupsert load ... -"
        )
        raise LoadError(msg) from exc
    file = arrow.PythonFile(_KeptOpen(binary), mode="r")
    return arrow.CompressedInputStream(file, "zstd")


class _Streams(io.RawIOBase):
    """
    What is in a file of bzip2 or xz, which has one stream after the other.

    Other than for ``bz2.open`` and ``lzma.open``, what follows a stream and is none itself
    is an error: it may have been one, and its rows would be missing.
    """

    def __init__(self, binary: IO[bytes], begin: Callable[[], Any]) -> None:
        self._binary = binary
        self._begin = begin
        self._stream = begin()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        data = b""
        while not data:
            block = b""
            if self._stream.eof:
                block = self._after(self._stream.unused_data)
                if not block:
                    return 0
                self._stream = self._begin()
            elif self._stream.needs_input:
                block = self._binary.read(_BLOCK)
                if not block:
                    msg = "the file ends before what is packed in it does"
                    raise EOFError(msg)
            data = self._stream.decompress(block, len(view))
        view[: len(data)] = data
        return len(data)

    def _after(self, rest: bytes) -> bytes:
        """Return what follows a stream, without the zeros that may fill up a file."""
        while not (block := rest.lstrip(b"\0")):
            rest = self._binary.read(_BLOCK)
            if not rest:
                break
        return block


# Bytes.
_BLOCK: Final = 1 << 16
_PACKED: Final[Mapping[bytes, Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": partial(_Streams, begin=bz2.BZ2Decompressor),
    b"\xfd7zXZ\0": partial(_Streams, begin=lzma.LZMADecompressor),
    b"\x28\xb5\x2f\xfd": _open_zstd,
}
_ZIP: Final = b"PK\x03\x04"
_EXCEL: Final = "an Excel workbook: save the sheet as CSV"
# What is no format that can be read, and what to do about it.
_OTHERS: Final[Mapping[bytes, str]] = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _EXCEL,
    b"7z\xbc\xaf\x27\x1c": "a 7z archive: unpack it",
    b"Rar!": "a RAR archive: unpack it",
    b"SQLite format 3\0": "a SQLite database: export the table as CSV",
    b"--\n-- PostgreSQL": "a dump of PostgreSQL: restore it with psql, or take the rows"
    " of one table, from its COPY to \\.",
    b"PGDMP": "a dump of PostgreSQL: restore it with pg_restore",
    b"PGCOPY\n\xff\r\n\0": "binary output of COPY: write CSV with COPY ... (FORMAT csv)",
    b"ARROW1": "an Arrow or Feather file: write it as Parquet",
    b"ORC": "an ORC file: write it as Parquet",
    b"Obj\x01": "an Avro file: write it as JSON Lines",
    b"%PDF-": "a PDF document",
}
# The folder in a zip file that tells what it is.
_DOCUMENTS: Final = {
    "xl/": _EXCEL,
    "content.xml": "an OpenDocument file: save the sheet as CSV",
    "word/": "a Word document",
}
_PARQUET: Final = b"PAR1"
_BOMS: Final = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

_COPY: Final = re.compile(rb"[^\n]*\)\s*from\s+stdin\b", re.IGNORECASE)

# As many bytes as tell what it is.
_FIRST: Final = 16
# Characters in which to look for the end of the first object.
_LINE: Final = 4096


def is_zip(binary: io.BufferedReader) -> bool:
    """Return whether a file is a zip archive, which must be read from its end."""
    return binary.peek(_FIRST).startswith(_ZIP)


def unpack(file: str, binary: io.BufferedReader, stack: ExitStack) -> io.BufferedReader:
    """
    Return what is in a compressed file, or the file itself.

    Raises:
        LoadError: It is a file of a kind that cannot be read.
    """
    first = binary.peek(_FIRST)
    for magic, reader in _PACKED.items():
        if first.startswith(magic):
            unpacked: io.BufferedReader = io.BufferedReader(reader(binary))
            _check(file, unpacked.peek(_FIRST))
            return unpacked
    if first.startswith(_ZIP):
        return _only_member(file, binary, stack)
    _check(file, first)
    return binary


def _check(file: str, first: bytes) -> None:
    for magic, kind in _OTHERS.items():
        if first.startswith(magic):
            msg = f"{file} is {kind}"
            raise LoadError(msg)


def _only_member(file: str, binary: IO[bytes], stack: ExitStack) -> io.BufferedReader:
    try:
        archive = stack.enter_context(zipfile.ZipFile(binary))
        names = [name for name in archive.namelist() if not name.endswith("/")]
        for name in names:
            for start, kind in _DOCUMENTS.items():
                if name.startswith(start):
                    msg = f"{file} is {kind}"
                    raise LoadError(msg)
        if len(names) != 1:
            msg = f"{file} is a zip file of {len(names)} files: unpack it"
            raise LoadError(msg)
        member = stack.enter_context(archive.open(names[0]))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as exc:
        msg = f"cannot read {file}: {exc}"
        raise LoadError(msg) from exc
    return io.BufferedReader(cast("io.RawIOBase", member))


def format_of(binary: io.BufferedReader) -> str | None:
    """Return the format that the first bytes tell, if they do."""
    first = binary.peek(_FIRST)
    if first.startswith(_PARQUET):
        return "parquet"
    start = first.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:5].lower() == b"copy " and _COPY.match(binary.peek(_LINE)):
        return "copy"
    if start.startswith(b"{"):
        line, end, _ = binary.peek(_LINE)[:_LINE].lstrip().partition(b"\n")
        return "jsonl" if not end or line.rstrip().endswith(b"}") else "json"
    # A cell may begin like an array, but not the header of most files.
    if start.startswith(b"[") and start[1:].lstrip()[:1] in {b"{", b"]", b""}:
        return "json"
    return None


def encoding_of(binary: io.BufferedReader) -> str | None:
    """Return the encoding that a byte order mark tells, if it is not UTF-8."""
    first = binary.peek(_FIRST)
    return next((name for bom, name in _BOMS.items() if first.startswith(bom)), None)
