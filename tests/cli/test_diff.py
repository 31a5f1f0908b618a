"""`--diff` prints each change, old and new side by side."""

import json
import os
import pty
import subprocess
import sys
from typing import Any, Final

import pytest

from tests.cli.databases import CliDatabase, Write, environment, run
from tests.cli.prices import KEY, SHOP, STORED, TABLE, TUESDAY, stored

LINES: Final = [
    '~ shop=7 sku="bolt": cents 10 -> 12',
    '+ shop=7 sku="screw": cents 8{}',
    '- shop=7 sku="washer": cents 2{}',
]


def lines_for(database: CliDatabase) -> list[str]:
    rest = f", active {1 if database.is_sqlite else 'true'}"
    return [line.format(rest) for line in LINES]


@pytest.mark.parametrize("dry", [True, False])
def test_a_line_a_change_before_the_summary(
    prices: CliDatabase, file: Write, *, dry: bool
) -> None:
    before = stored(prices)
    result = prices.sync(file(TUESDAY), *SHOP, "--diff", *["-n"] * dry)
    lines = result.stdout.splitlines()
    assert lines[:3] == lines_for(prices)
    assert lines[3].split() == ["created", "1"]
    assert (stored(prices) == before) is dry


def test_a_row_that_is_marked(prices: CliDatabase, file: Write) -> None:
    options = ("--missing", "active=false", "--diff", "-n")
    result = prices.sync(file(TUESDAY), *SHOP, *options)
    change = "1 -> 0" if prices.is_sqlite else "true -> false"
    assert f'- shop=7 sku="washer": active {change}' in result.stdout.splitlines()


def test_json_has_whole_rows(prices: CliDatabase, file: Write) -> None:
    result = prices.sync(file(TUESDAY), *SHOP, "--diff", "--json")
    *changes, summary = map(json.loads, result.stdout.splitlines())
    assert summary["deleted"] == 1
    row = {"shop": 7, "sku": "bolt", "cents": 10, "gone_at": None, "active": True}
    assert changes[0] == {
        "action": "updated",
        "key": {"shop": 7, "sku": "bolt"},
        "old": row,
        "new": {**row, "cents": 12},
        "changed": ["cents"],
        "rows": 1,
    }
    created, deleted = changes[1:]
    assert (created["action"], created["old"]) == ("created", None)
    assert created["changed"] == ["shop", "sku", "cents"]
    assert (deleted["action"], deleted["new"]) == ("deleted", None)
    assert deleted["old"] == {**row, "sku": "washer", "cents": 2}


@pytest.mark.parametrize("options", [(), ("--skip-unchanged",), ("-n",)])
def test_a_load_has_it_too(
    prices: CliDatabase, file: Write, options: tuple[str, ...]
) -> None:
    path = file(f"shop,{TUESDAY}".replace("\n", "\n7,").removesuffix("7,"))
    result = prices.load(path, *KEY, "--diff", *options)
    assert result.stdout.splitlines()[:2] == lines_for(prices)[:2]
    assert result.stdout.splitlines()[2].startswith("created")


def test_rows_that_are_left_out_are_no_changes(
    prices: CliDatabase, file: Write
) -> None:
    path = file(f"shop,sku,cents\n7,bolt,11\n7,x,{'9' * 30}\n7,nut,6\n")
    result = prices.load(path, *KEY, "--diff", "--on-error", "skip")
    assert result.exit_code == 3
    assert result.stdout.splitlines()[:2] == [
        '~ shop=7 sku="bolt": cents 10 -> 11',
        '~ shop=7 sku="nut": cents 5 -> 6',
    ]


def test_changes_of_more_than_one_batch_are_printed_in_order(
    prices: CliDatabase, file: Write
) -> None:
    """And of so many, more than are kept in memory."""
    numbers = range(9_000)
    note = "a long note " * 10
    prices.query("ALTER TABLE t ADD COLUMN note text")
    path = file("shop,sku,note\n" + "".join(f"9,{n:06},{note}\n" for n in numbers))
    result = prices.load(path, *KEY, "--diff")
    lines = result.stdout.splitlines()
    assert [line[:19] for line in lines[: len(numbers)]] == [
        f'+ shop=9 sku="{n:06}"'[:19] for n in numbers
    ]
    assert len(result.stdout) > 1_000_000


def test_a_load_that_is_made_again_prints_its_changes_once(
    postgresql_database: CliDatabase, file: Write
) -> None:
    for sql in (
        "CREATE TABLE t (id integer PRIMARY KEY, name text)",
        "CREATE SEQUENCE tries",
        (
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF nextval('tries') = 1 THEN RAISE 'deadlock detected'"
            " USING ERRCODE = '40P01'; END IF; RETURN new; END $$"
        ),
        (
            "CREATE TRIGGER lose BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = 2)"
            " EXECUTE FUNCTION lose()"
        ),
    ):
        postgresql_database.query(sql)
    options = ("--key", "id", "--batch-size", "1", "--diff")
    result = postgresql_database.load(file("id,name\n1,a\n2,b\n"), *options)
    assert result.stdout.splitlines()[:3] == [
        '+ id=1: name "a"',
        '+ id=2: name "b"',
        "created       2",
    ]


def test_a_key_of_several_rows(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (k integer, n integer)")
    database.query("INSERT INTO t VALUES (1, 2), (1, 2)")
    result = database.load(file("k,n\n1,3\n2,\n"), "--key", "k", "--diff")
    assert result.stdout.splitlines()[:2] == [
        "~ k=1: n 2 -> 3 (the first of 2 rows)",
        "+ k=2",
    ]


def test_nothing_of_a_value_or_name_reaches_the_terminal_raw(
    database: CliDatabase, file: Write
) -> None:
    database.query('CREATE TABLE t (k text PRIMARY KEY, "a\x1b[31m" text)')
    database.query("INSERT INTO t VALUES ('1', 'NULL')")
    path = file('k,"a\x1b[31m"\n1,"\x1b[2J\x9b\u202e\u2028\nü"\n')
    result = database.load(path, "--key", "k", "--diff")
    shown = r'"\u001b[2J\u009b\u202e\u2028\nü"'
    line = rf'~ k="1": "a\u001b[31m" "NULL" -> {shown}'
    assert result.stdout.split("\n")[0] == line
    again = database.load(file("k\n2\n"), "--key", "k", "--diff", "--json")
    assert again.exit_code == 0
    database.load(path, "--key", "k")
    path = file('k,"a\x1b[31m"\n1,ü\n')
    changed = database.load(path, "--key", "k", "--diff", "--json").stdout
    assert changed.isascii()
    assert json.loads(changed.split("\n")[0])["new"] == {"k": "1", "a\x1b[31m": "ü"}


def test_values_that_json_does_not_have(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (k integer PRIMARY KEY, b bytea, f float8, n numeric, l int[],"
        " d date, u uuid, i interval, r int4range, j jsonb)"
    )
    uuid = "00000000-0000-0000-0000-00000000000a"
    path = file(
        "k,b,f,n,l,d,u,i,r,j\n"
        rf'1,\x00ff,NaN,NaN,"{{1,NULL}}",2026-01-02,{uuid},1 day,"[1,3)","{{""a"": 1}}"'
    )
    options = ("--key", "k", "--diff", "--json", "-n")
    result = postgresql_database.load(path, *options)
    assert json.loads(result.stdout.splitlines()[0])["new"] == {
        "k": 1,
        "b": r"\x00ff",
        "f": "nan",
        "n": "NaN",
        "l": [1, None],
        "d": "2026-01-02",
        "u": uuid,
        "i": "PT24H",
        "r": "<Range [1, 3)>",
        "j": '{"a": 1}',
    }


def test_changes_cannot_be_printed_of_batches_that_are_committed(
    prices: CliDatabase, file: Write
) -> None:
    result = prices.load(file("shop,sku\n"), *KEY, "--diff", "--no-atomic")
    assert result.exit_code == 2
    assert "--diff cannot be combined with --no-atomic" in result.stderr


def printed(database: CliDatabase, path: Any, fd: int, **variables: str) -> None:
    command = [sys.executable, "-m", "aioupsert", "sync", database.url, "t", str(path)]
    env = {**environment(), "NO_COLOR": "", "TERM": "xterm", **variables}
    options = [*SHOP, "--dry-run", "--diff"]
    subprocess.run([*command, *options], check=True, stdout=fd, env=env)  # noqa: S603  # our own command


def on_terminal(database: CliDatabase, path: Any, **variables: str) -> str:
    terminal, fd = pty.openpty()
    printed(database, path, fd, **variables)
    shown = os.read(terminal, 10_000).decode()
    os.close(fd)
    os.close(terminal)
    return shown


def test_it_is_coloured_on_a_terminal_only(
    sqlite_database: CliDatabase, file: Write, tmp_path: Any
) -> None:
    sqlite_database.query(TABLE)
    sqlite_database.query(STORED)
    path = file(TUESDAY)
    shown = on_terminal(sqlite_database, path)
    line = '\x1b[33m~\x1b[0m shop=7 sku="bolt": cents \x1b[31m10\x1b[0m -> \x1b[32m12'
    assert line in shown
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = on_terminal(sqlite_database, path, **variables)
        assert lines_for(sqlite_database)[0] in plain
    with (tmp_path / "diff").open("wb") as output:
        printed(sqlite_database, path, output.fileno(), FORCE_COLOR="1")
    written = (tmp_path / "diff").read_text("utf-8")
    assert written.splitlines()[:3] == lines_for(sqlite_database)


def test_text_that_the_terminal_does_not_have_is_escaped(
    sqlite_database: CliDatabase, file: Write, tmp_path: Any
) -> None:
    sqlite_database.query(TABLE)
    sqlite_database.query(STORED)
    path = file(TUESDAY.replace("screw", "schräg"))
    with (tmp_path / "diff").open("wb") as output:
        printed(sqlite_database, path, output.fileno(), PYTHONIOENCODING="ascii")
    written = (tmp_path / "diff").read_text("ascii")
    assert r'+ shop=7 sku="schr\xe4g": cents 8' in written


def test_help_names_it() -> None:
    assert "old and new side by side" in " ".join(run("sync", "--help").stdout.split())
