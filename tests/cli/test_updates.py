"""Expressions of the command line are those of the library."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.updates import parse_expression, parse_updates
from aioupsert.expressions import (
    Excluded,
    Expression,
    F,
    coalesce,
    greatest,
    least,
    length,
    lower,
    now,
    upper,
)
from tests.cli.databases import CliDatabase, Write, counts, expected_counts, run

HITS, ROW = F("hits"), Excluded("hits")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hits", HITS),
        (" excluded.hits ", ROW),
        ("hits + excluded.hits", HITS + ROW),
        ("hits-1", HITS - 1),
        ("2*hits", 2 * HITS),
        ("hits / 2.5", HITS / 2.5),
        ("hits % 2", HITS % 2),
        ("-hits", 0 - HITS),
        ("hits * -1", HITS * -1),
        ("--1", 1),
        ("1 + hits * (2 - hits)", 1 + HITS * (2 - HITS)),
        ("1 / 2", coalesce(1) / 2),
        ("coalesce(hits, 0) + 1", coalesce(HITS, 0) + 1),
        ("COALESCE(hits, 'x')", coalesce(HITS, "x")),
        ("greatest(hits, excluded.hits, 3)", greatest(HITS, ROW, 3)),
        ("least(hits)", least(HITS)),
        ("lower(excluded.hits)", lower(ROW)),
        ("upper('a')", upper("a")),
        ("length(hits)", length(HITS)),
        ("now()", now()),
        ('F("odd name")', F("odd name")),
        ("Excluded('from')", Excluded("from")),
        ("excluded", F("excluded")),
        ("12", 12),
        ("1 + 2", coalesce(1) + 2),
        ("hits > 1", HITS > 1),
        ("2 >= hits", coalesce(2) >= HITS),
        ("hits < excluded.hits", HITS < ROW),
        ("hits <= 3", HITS <= 3),
        ("hits == 'a'", HITS == "a"),
        ("hits != 'a'", HITS != "a"),
        ("hits is None", HITS.is_null()),
        ("hits is not None", ~HITS.is_null()),
        (
            "not hits > 1 and hits < 5 and a or b",
            ~(HITS > 1) & (HITS < 5) & F("a") | F("b"),
        ),
        ("'it''s'", "its"),
        (r"'\d'", r"\d"),
    ],
)
def test_an_expression_is_read(text: str, expected: Any) -> None:
    assert repr(parse_expression(text)) == repr(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "cannot read ''"),
        ("hits +", r"cannot read 'hits \+'"),
        ("a b", "cannot read 'a b'"),
        ("a = 1", "cannot read 'a = 1'"),
        ("a; b", "cannot read 'a; b'"),
        ("a.b", "cannot read 'a.b': use columns, excluded.column,"),
        ("a[0]", r"cannot read 'a\[0\]'"),
        ("a ** 2", r"cannot read 'a \*\* 2'"),
        ("1 < a < 3", "cannot read '1 < a < 3'"),
        ("a in b", "cannot read 'a in b'"),
        ("a is b", "cannot read 'a is b'"),
        ("~a", "cannot read '~a'"),
        ("lambda: 1", "cannot read 'lambda: 1'"),
        ("[a]", r"cannot read '\[a\]'"),
        ("True", "cannot read 'True'"),
        ("None", "cannot read 'None'"),
        ("b'a'", "cannot read \"b'a'\""),
        ("f'{a}'", "cannot read "),
        ("coalesce(a)(b)", "cannot read "),
        ("coalesce(a, b=1)", "cannot read "),
        ("coalesce(*a)", "cannot read "),
        (
            "open('x')",
            "there is no function 'open'; the functions are coalesce, greatest,",
        ),
        ("F(a)", "there is no function 'f'"),
        ("now(1)", "now: .* takes 0 positional arguments but 1 was given"),
        ("coalesce()", "coalesce: .* needs at least one value"),
        ("'a' + 'b'", "cannot compute with 'a' and 'b'"),
        ("-'a'", "cannot compute with 0 and 'a'"),
        ("(" * 5_000, "cannot read|nested too deeply"),
        ("a" + " + a" * 20_000, "nested too deeply"),
        ("1" * 5_000, "cannot read"),
        ("a\0", "null bytes"),
    ],
)
def test_what_is_no_expression_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_expression(text)


@given(st.text(alphabet="ab.()+-*/%'\" ,19\\\n=[]{}:@", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_expression(text)
    except ValueError:
        return
    assert isinstance(found, (Expression, int, float, str))


def test_updates_are_columns_and_expressions() -> None:
    found = parse_updates(["hits = hits+1", "name", "odd name=excluded.x", "s='a=b'"])
    assert repr(found) == repr(
        {
            "hits": HITS + 1,
            "name": Excluded("name"),
            "odd name": Excluded("x"),
            "s": "a=b",
        }
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["=1"], "'=1' does not name a column"),
        ([""], "'' does not name a column"),
        (["a", "a=1"], "'a' is set twice"),
        (["a==1"], "cannot read '=1'"),
    ],
)
def test_updates_that_make_no_sense(texts: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        parse_updates(texts)


def test_counters_are_added_up(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, hits integer, name text)")
    path = file("id,hits,name\n1,2,a\n2,1,b\n1,3,c\n")
    options = ("--key", "id", "--update", "hits=hits + excluded.hits")
    assert counts(database.load(path, *options)) == expected_counts(
        created=2, updated=1
    )
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, 5, "a"), (2, 1, "b")]


def test_only_the_columns_named_are_updated(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, a text, b text)")
    database.query("INSERT INTO t VALUES (1, 'x', 'y')")
    result = database.load(file("id,a,b\n1,p,q\n"), "--key", "id", "--update", "b")
    assert counts(result) == expected_counts(updated=1)
    assert database.query("SELECT * FROM t") == [(1, "x", "q")]


def test_a_condition_leaves_rows_that_are_newer(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, version integer)")
    database.query("INSERT INTO t VALUES (1, 5), (2, 5)")
    path = file("id,version\n1,4\n2,6\n3,1\n")
    options = ("--key", "id", "--where", "excluded.version > version", "--json")
    result = database.load(path, *options)
    told = json.loads(result.stdout)
    assert (told["created"], told["updated"], told["skipped"]) == (1, 1, 1)
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, 5), (2, 6), (3, 1)]
    assert database.load(path, *options[:-1]).stdout.split()[6:8] == ["skipped", "3"]


def test_create_only_leaves_rows_that_are_there(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, a text)")
    database.query("INSERT INTO t VALUES (1, 'x')")
    result = database.load(file("id,a\n1,p\n2,q\n"), "--key", "id", "--create-only")
    assert counts(result) == expected_counts(created=1, unchanged=1)
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, "x"), (2, "q")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--update", "a=("), "--update: cannot read '('"),
        (
            ("--update", "a", "--create-only"),
            "--create-only updates no rows, so it cannot be combined with --update",
        ),
        (("--where", "a >"), "--where: cannot read 'a >'"),
        (("--where", "1"), "--where: '1' is not a condition"),
    ],
)
def test_wrong_updates_are_wrong_usage(options: tuple[str, ...], expected: str) -> None:
    result = run("load", "sqlite:///x.db", "t", "--key", "id", *options)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.replace("│", " ").split())


def test_an_update_of_an_unknown_column(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text)")
    result = database.load(
        file("id,name\n1,a\n"), "--key", "id", "--update", "names=name"
    )
    assert result.exit_code == 1
    assert "table t has no column 'names' (did you mean 'name'?)" in result.stderr
