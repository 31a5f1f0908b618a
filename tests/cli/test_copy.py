"""Files that PostgreSQL's COPY, psql or pg_dump have written as text."""

import json
from pathlib import Path

import psycopg
import pytest

from tests.cli.databases import CliDatabase, Write, counts, expected_counts

KEY = ("--key", "id")
COPY = (*KEY, "--format", "copy")
NO_HEADER = ("--no-header", "--columns", "id,s")
TABLE = "CREATE TABLE t (id integer PRIMARY KEY, s text)"
STRINGS = [
    "",
    " a ",
    "\\N",
    "\\.",
    "\t",
    "\b\f\n\r\v",
    "\r\n",
    "a\\",
    "\\",
    '"',
    "x41",
    "\x1b",
    "é\N{SNOWMAN}",
]


def test_what_copy_writes_is_read_as_it_was(
    database: CliDatabase, postgresql_database: CliDatabase, tmp_path: Path
) -> None:
    postgresql_database.query("CREATE TABLE source (id integer, s text)")
    values = ", ".join(
        f"({n}, convert_from('\\x{text.encode().hex()}', 'UTF8'))"
        for n, text in enumerate(STRINGS)
    )
    postgresql_database.query(f"INSERT INTO source VALUES {values}, (99, NULL)")
    with (
        psycopg.connect(postgresql_database.url) as connection,
        connection.cursor().copy("COPY source TO STDOUT") as copy,
    ):
        written = b"".join(map(bytes, copy))
    database.query(TABLE)
    path = tmp_path / "rows.txt"
    path.write_bytes(written)
    assert counts(database.load(path, *COPY, *NO_HEADER)) == expected_counts(
        created=len(STRINGS) + 1
    )
    assert database.query("SELECT id, s FROM t ORDER BY id") == [
        *enumerate(STRINGS),
        (99, None),
    ]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (r"\101\x42\x4a0\x", "ABJ0x"),
        (r"\303\251\xe2\x98\x83", "é\N{SNOWMAN}"),
        (r"\q\8", "q8"),
        ("a\\\tb", "a\tb"),
        ("a\\\\\\\tb\\\\.", "a\\\tb\\."),
        ("a\\\nb\\\r\nc", "a\nb\nc"),
        (r"\541", "a"),
        ("x\\", "x\\"),
        ("a\\\tb\\", "a\tb\\"),
    ],
)
def test_what_copy_would_read_but_not_write(
    sqlite_database: CliDatabase, file: Write, written: str, expected: str
) -> None:
    sqlite_database.query(TABLE)
    path = file(f"1\t{written}" + ("\n" if written[-2:] not in {"x\\", "b\\"} else ""))
    assert sqlite_database.load(path, *COPY, *NO_HEADER).exit_code == 0
    assert sqlite_database.query("SELECT s FROM t") == [(expected,)]


def test_the_rows_of_a_dump(database: CliDatabase, file: Write) -> None:
    database.query('CREATE TABLE t (id integer PRIMARY KEY, "a ""b" text, c text)')
    content = (
        'COPY "pub(lic".t (id, "a ""b", c) FROM stdin;\n1\tx\t\\N\n2\t\\\\N\ty\n\\.\n'
        "\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict x\n"
    )
    # Told by its beginning, whatever its name is.
    assert counts(database.load(file(content, "t.sql"), *KEY)) == expected_counts(
        created=2
    )
    assert database.query("SELECT * FROM t ORDER BY id") == [
        (1, "x", None),
        (2, "\\N", "y"),
    ]


def test_rejected_rows_are_written_as_they_were_and_can_be_loaded_again(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    sqlite_database.query(
        "CREATE TABLE t (id text PRIMARY KEY, s text CHECK (s <> 'a' || char(9) || 'b'),"
        " n text CHECK (n <> 'no'))"
    )
    content = (
        "id|s|n\n1|a\\tb|1\n2|~|no\n3|\\\\\\~|\\156o\n4|é\\|x|no\n5|x\n6|x|y|z\n"
        "7|\\303|x\n8|ü|no\n9|ok|ok\n10|\\~|no\n11|\\ü|no\n"
    )
    rejects = tmp_path / "bad.txt"
    options = (*COPY, "--delimiter", "|", "--null", "~", "--null", "ü")
    path = file(content)
    skip = ("--on-error", "skip", "--rejects", str(rejects))
    result = sqlite_database.load(path, *options, *skip)
    assert result.exit_code == 3
    reasons = rejects.with_name("bad.txt.reasons.jsonl").read_text().splitlines()
    lines = [json.loads(reason)["line"] for reason in reasons]
    assert lines == [2, 3, 4, 5, 6, 7, 8, 9, 11, 12]
    assert "expected 3 cells as in the header, found 2" in reasons[4]
    assert "expected 3 cells as in the header, found 4" in reasons[5]
    assert "invalid escape: 'utf-8" in reasons[6]
    sqlite_database.query("DROP TABLE t")
    sqlite_database.query("CREATE TABLE t (id text PRIMARY KEY, s text, n text)")
    again = sqlite_database.load(rejects, *options, "--on-error", "skip")
    assert again.exit_code == 3
    assert sqlite_database.query("SELECT * FROM t ORDER BY id") == [
        ("1", "a\tb", "1"),
        ("10", "~", "no"),
        ("11", "ü", "no"),
        ("2", None, "no"),
        ("3", "\\~", "no"),
        ("4", "é|x", "no"),
        ("8", None, "no"),
    ]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("", (), "is empty: a header is required"),
        ("id\tid\n", (), "the header names 'id' twice"),
        ("id\t\\303\n", (), "line 1: "),
        ("id\ts\n1\ta\xff\n", ("--encoding", "ascii"), "line 2, column 4: byte 0xc3"),
        (
            "id\ts\n" + "1\ta\n" * 9_000 + "\xff",
            ("--encoding", "ascii"),
            "line 9002, column 1: byte 0xc3",
        ),
        ("1\ta\n", ("--no-header",), "--no-header needs --columns"),
        ("id\ts\n1\ta\n\\.\n2\tb\n", (), r"line 4: text after the line \. at which"),
    ],
)
def test_what_cannot_be_read(
    sqlite_database: CliDatabase,
    file: Write,
    content: str,
    options: tuple[str, ...],
    expected: str,
) -> None:
    sqlite_database.query(TABLE)
    result = sqlite_database.load(file(content), *COPY, *options)
    assert result.exit_code in {1, 2}
    assert expected in result.stderr
    assert sqlite_database.query("SELECT * FROM t") == []


def test_lines_before_the_header_are_skipped(
    sqlite_database: CliDatabase, file: Write
) -> None:
    sqlite_database.query(TABLE)
    path = file("about\nid\ts\n1\ta\n")
    assert sqlite_database.load(path, *COPY, "--skip-lines", "1").exit_code == 0
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a")]


def test_a_whole_dump_is_named(sqlite_database: CliDatabase, file: Write) -> None:
    path = file("--\n-- PostgreSQL database dump\n--\n\nSET x = 0;\n", "t.sql")
    result = sqlite_database.load(path, *KEY)
    assert result.exit_code == 1
    assert "is a dump of PostgreSQL: restore it with psql, or take" in result.stderr
