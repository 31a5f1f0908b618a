"""`aioupsert sync` makes a scope of a table equal to files."""

import json
from typing import Final

import pytest
from typer.testing import Result

from tests.cli.databases import CliDatabase, Write
from tests.cli.prices import KEY, MONDAY, SHOP, STORED, TABLE, TUESDAY, stored


def counts(result: Result) -> dict[str, int]:
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    names = ("created", "updated", "unchanged", "deleted")
    return {line[0]: int(line[1]) for line in lines if line[0] in names}


UNTOUCHED: Final = [
    (7, "bolt", 10),
    (7, "nut", 5),
    (7, "washer", 2),
    (8, "bolt", 9),
]


def test_the_scope_equals_the_file(prices: CliDatabase, file: Write) -> None:
    result = prices.sync(file(TUESDAY), *SHOP)
    assert counts(result) == {
        "created": 1,
        "updated": 1,
        "unchanged": 1,
        "deleted": 1,
    }
    expected = [(7, "bolt", 12), (7, "nut", 5), (7, "screw", 8), (8, "bolt", 9)]
    assert stored(prices) == expected


def test_a_dry_run_reports_the_same_as_json_and_stores_nothing(
    prices: CliDatabase, file: Write
) -> None:
    result = prices.sync(file(TUESDAY), *SHOP, "--dry-run", "--json")
    summary = json.loads(result.stdout)
    assert (summary["created"], summary["deleted"], summary["dry_run"]) == (1, 1, True)
    assert stored(prices) == UNTOUCHED


def test_the_whole_table_has_to_be_said(prices: CliDatabase, file: Write) -> None:
    path = file("shop,sku,cents\n7,bolt,10\n7,nut,5\n8,bolt,9\n")
    for options in ((), ("--scope", "shop=7", "--whole-table")):
        result = prices.sync(path, *KEY, *options)
        assert result.exit_code == 2
        assert "either --scope COLUMN=VALUE or --whole-table" in result.stderr
    assert counts(prices.sync(path, *KEY, "--whole-table"))["deleted"] == 1
    assert (7, "washer", 2) not in stored(prices)


def test_missing_rows_are_kept(prices: CliDatabase, file: Write) -> None:
    result = prices.sync(file(TUESDAY), *SHOP, "--missing", "keep")
    assert counts(result)["deleted"] == 0
    assert (7, "washer", 2) in stored(prices)


@pytest.mark.parametrize(
    ("marks", "marked"),
    [
        (("gone_at=now()",), "gone_at IS NOT NULL"),
        (("gone_at=2026-01-02 03:04:05",), "gone_at = '2026-01-02 03:04:05'"),
        (("active=false",), "NOT active"),
        (("active=false", "gone_at=now()"), "NOT active AND gone_at IS NOT NULL"),
    ],
)
def test_missing_rows_are_marked_and_revived(
    prices: CliDatabase, file: Write, marks: tuple[str, ...], marked: str
) -> None:
    options = [word for mark in marks for word in ("--missing", mark)]
    first = prices.sync(file(TUESDAY), *SHOP, *options)
    assert counts(first)["deleted"] == 1
    assert prices.query(f"SELECT sku FROM t WHERE {marked}") == [("washer",)]
    again = prices.sync(file(TUESDAY), *SHOP, *options)
    assert counts(again)["deleted"] == 0
    back = prices.sync(file(MONDAY), *SHOP, *options)
    assert counts(back)["updated"] == 2
    assert prices.query(f"SELECT sku FROM t WHERE {marked}") == [("screw",)]


@pytest.mark.parametrize(
    ("content", "limit", "said"),
    [
        (TUESDAY, "20%", "more is missing than --max-missing 20% allows: 1 of 3 rows"),
        (TUESDAY, "0", "more is missing than --max-missing 0 allows: 1 of 3 rows"),
        ("sku,cents\n", "100%", "the source is empty: 3 of 3 rows would go"),
    ],
)
def test_a_source_that_lacks_too_much_is_refused(
    prices: CliDatabase, file: Write, content: str, limit: str, said: str
) -> None:
    result = prices.sync(file(content), *SHOP, "--max-missing", limit, "--diff")
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert result.stderr.endswith(
        "; see --max-missing and --allow-empty\nNothing was stored.\n"
    )
    assert stored(prices) == UNTOUCHED


def test_what_is_allowed_may_go(prices: CliDatabase) -> None:
    options = ("--max-missing", "3", "--allow-empty")
    result = prices.sync("-", *SHOP, *options, stdin="sku,cents\n")
    assert counts(result)["deleted"] == 3
    assert stored(prices) == [(8, "bolt", 9)]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("shop,sku,cents\n7,bolt,10\n7,nut,5\n", "rows.csv"),
        ('[{"shop": 7, "sku": "bolt"}, {"sku": "nut"}]', "rows.json"),
    ],
)
def test_rows_may_have_the_columns_of_the_scope(
    prices: CliDatabase, file: Write, content: str, name: str
) -> None:
    result = prices.sync(file(content, name), *SHOP)
    assert (counts(result)["unchanged"], counts(result)["deleted"]) == (2, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("shop,sku\n7,bolt\n8,nut\n", "line 3, column 'shop': it has '8', but the"),
        ("shop,sku\n7,bolt\n,nut\n", "line 3, column 'shop': it has NULL, but the"),
    ],
)
def test_a_row_of_another_scope_is_refused(
    prices: CliDatabase, file: Write, content: str, said: str
) -> None:
    result = prices.sync(file(content), *SHOP)
    assert result.exit_code == 1
    assert said in result.stderr
    assert result.stderr.endswith("Nothing was stored.\n")
    assert stored(prices) == UNTOUCHED


def test_a_scope_may_be_null(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (k integer PRIMARY KEY, shop integer)")
    database.query("INSERT INTO t VALUES (1, NULL), (2, NULL), (3, 7)")
    result = database.sync(file("k,shop\n1,\n"), "-k", "k", "-s", "shop")
    assert counts(result)["deleted"] == 1
    assert sorted(database.query("SELECT k FROM t")) == [(1,), (3,)]
    wrong = database.sync(file("k,shop\n1,7\n"), "-k", "k", "-s", "shop")
    assert "it has '7', but the scope has NULL" in wrong.stderr


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("-s", "shp=7"), 1, "t has no column 'shp' (did you mean 'shop'?)"),
        ((*SHOP, "--missing", "gone=1"), 1, "t has no column 'gone' (did you mean"),
        ((*SHOP, "--missing", "gone_at"), 2, "--missing is delete, keep, or COLUMN="),
        ((*SHOP, "--max-missing", "x"), 2, "'x' is neither a number of rows, such as"),
        ((*SHOP, "--diff", "--quiet"), 2, "--diff cannot be combined with --quiet"),
        (("-s", "cents=x"), 1, "x"),
    ],
)
def test_what_makes_no_sense_is_refused(
    prices: CliDatabase, file: Write, options: tuple[str, ...], code: int, said: str
) -> None:
    result = prices.sync(file(TUESDAY), "-k", "sku", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert said in " ".join(result.stderr.split())
    assert stored(prices) == UNTOUCHED


def test_a_bad_row_stores_nothing(prices: CliDatabase, file: Write) -> None:
    result = prices.sync(file(f"{TUESDAY}bad,{'9' * 30}\n"), *SHOP)
    assert result.exit_code == 1
    assert "rows.csv, line 5, column 'cents': " in result.stderr
    assert result.stderr.endswith("Nothing was stored.\n")
    assert stored(prices) == UNTOUCHED


def test_sqlite_ignores_the_case_of_names(
    sqlite_database: CliDatabase, file: Write
) -> None:
    sqlite_database.query(TABLE)
    sqlite_database.query(STORED)
    path = file("SHOP,SKU,Cents\n7,bolt,12\n7,nut,5\n")
    options = ("-k", "SHOP,SKU", "-s", "Shop=7", "--missing", "Active=false", "--diff")
    result = sqlite_database.sync(path, *options)
    assert counts(result)["deleted"] == 1
    assert '~ shop=7 sku="bolt": cents 10 -> 12' in result.stdout


def test_updates_and_conditions_are_those_of_load(
    prices: CliDatabase, file: Write
) -> None:
    options = ("-u", "cents=cents+excluded.cents", "-w", "cents < 10")
    result = prices.sync(file(TUESDAY), *SHOP, *options)
    assert result.exit_code == 0
    expected = [(7, "bolt", 10), (7, "nut", 10), (7, "screw", 8), (8, "bolt", 9)]
    assert stored(prices) == expected
