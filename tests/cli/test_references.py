"""Tables that refer to themselves: a child may come before its parent."""

import json

import pytest

from tests.cli.databases import CliDatabase, Write

KEY = ("--key", "id")
TREE = "CREATE TABLE t (id integer PRIMARY KEY, parent integer REFERENCES t, note text)"
# The first row is the last that can be stored; a parent may be the row itself.
BACKWARDS = "id,parent,note\n5,4,a\n4,3,b\n 3,2,c\n2, 1,d\n1,1,e\n6,,f\n"


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize(
    "options",
    [(), ("--no-atomic",), ("--on-error", "skip"), ("--connections", "2"), ("-n",)],
)
def test_the_outcome_is_the_same_for_any_number_of_rows(
    postgresql_database: CliDatabase, file: Write, size: int, options: tuple[str, ...]
) -> None:
    postgresql_database.query(TREE)
    result = postgresql_database.load(
        file(BACKWARDS), *KEY, "--batch-size", str(size), *options, "--json"
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["created"] == 6
    stored = postgresql_database.query("SELECT id, parent, note FROM t ORDER BY id")
    if "-n" not in options:
        assert stored == [
            (1, 1, "e"),
            (2, 1, "d"),
            (3, 2, "c"),
            (4, 3, "b"),
            (5, 4, "a"),
            (6, None, "f"),
        ]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_rows_of_one_key_stay_in_their_order(
    postgresql_database: CliDatabase, file: Write, size: int
) -> None:
    postgresql_database.query(
        TREE.replace("id integer", "id text").replace("parent integer", "parent text")
    )
    content = "id,parent,note\nb,a,1\nb,,2\nc,b,3\na,,4\nb,c,5\nB,,6\n"
    options = (*KEY, "--batch-size", str(size))
    result = postgresql_database.load(file(content), *options)
    assert result.exit_code == 0, result.output
    assert postgresql_database.query("SELECT * FROM t ORDER BY note") == [
        ("c", "b", "3"),
        ("a", None, "4"),
        ("b", "c", "5"),
        ("B", None, "6"),
    ]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_row_whose_parent_never_comes(
    postgresql_database: CliDatabase, file: Write, size: int
) -> None:
    postgresql_database.query(TREE)
    path = file("id,parent,note\n3,2,a\n2,9,b\n4,7,c\n5,,d\n6,x,e\n8,5,f\n")
    postgresql_database.query("INSERT INTO t VALUES (7, NULL, 'old')")
    options = (*KEY, "--batch-size", str(size))
    result = postgresql_database.load(path, *options)
    assert result.exit_code == 1
    assert postgresql_database.query("SELECT count(*) FROM t") == [(1,)]
    result = postgresql_database.load(path, *options, "--on-error", "skip")
    assert result.exit_code == 3
    assert "line 2: insert or update on table" in result.stderr
    assert "line 3: insert or update on table" in result.stderr
    assert "line 6, column 'parent': invalid input syntax" in result.stderr
    stored = postgresql_database.query("SELECT id FROM t ORDER BY id")
    assert stored == [(4,), (5,), (7,), (8,)]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("numeric", "a,b,a2,b2\n1,1.0,2,2\n2,2.0,1,1.00\n3,3,,7\n"),
        ("integer", "a,b,a2,b2\n1,1,2,2\n2,2,1,1\n3,3,,7\n"),
    ],
)
@pytest.mark.parametrize("size", [2, 100])
def test_rows_that_are_each_others_parents_need_one_statement(
    postgresql_database: CliDatabase, file: Write, size: int, kind: str, content: str
) -> None:
    postgresql_database.query(
        f"CREATE TABLE t (a integer, b {kind}, a2 integer, b2 {kind},"
        " PRIMARY KEY (a, b), FOREIGN KEY (a2, b2) REFERENCES t (a, b))"
    )
    options = ("--key", "a,b", "--batch-size", str(size))
    result = postgresql_database.load(file(content), *options)
    assert result.exit_code == 0, result.output
    assert postgresql_database.query("SELECT count(*) FROM t") == [(3,)]


def test_a_parent_by_another_column_than_the_key(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, name text UNIQUE, boss text REFERENCES"
        " t (name), deputy integer REFERENCES t DEFERRABLE INITIALLY DEFERRED)"
    )
    rows = [
        {"id": 1, "name": "a", "boss": "c", "deputy": 2},
        {"id": 2, "name": "b", "boss": "a", "deputy": None},
        {"id": 3, "name": "c"},
    ]
    path = file("\n".join(map(json.dumps, rows)), "1.jsonl")
    result = postgresql_database.load(path, *KEY, "--batch-size", "1")
    assert result.exit_code == 0, result.output
    # Without the column that the parent is found by, it must be stored already.
    result = postgresql_database.load(
        file('{"id": 3, "boss": "b"}\n{"id": 2, "boss": "c"}\n', "2.jsonl"), *KEY
    )
    assert result.exit_code == 0, result.output
    assert postgresql_database.query("SELECT id, boss, deputy FROM t ORDER BY 1") == [
        (1, "c", 2),
        (2, "c", None),
        (3, "b", None),
    ]
