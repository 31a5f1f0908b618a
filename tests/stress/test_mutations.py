"""Faults can be injected and are noticed, and the pages say what is injected."""

import csv
import re
from pathlib import Path

import pytest

from tests.stress.mutations.faults import MUTATIONS
from tests.stress.mutations.registry import Mutation, replace
from tests.stress.mutations.running import DOCUMENT, ROOT, Outcome, inject
from tests.support.servers import Server

MUTATION = MUTATIONS["created_means_updated"]


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_its_tests_exist(mutation: Mutation) -> None:
    for test in mutation.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text("utf-8")


def test_a_fault_is_noticed_by_a_test_that_fails(pg_server: Server) -> None:
    outcome = inject(MUTATION, pg_server.dsn)
    assert (outcome.test, outcome.noticed) == (*MUTATION.tests, True)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome("t", 0, "AssertionError"), "NOT REACHED\nAssertionError"),
        (Outcome(None, 0, ""), "NOT REACHED"),
        (Outcome(None, 2, ""), "NOTICED BY NO TEST"),
    ],
)
def test_it_is_not_noticed_unless_a_test_reaches_it_and_fails(
    outcome: Outcome, verdict: str
) -> None:
    assert (outcome.noticed, outcome.verdict()) == (False, verdict)


def test_what_no_longer_exists_is_not_replaced() -> None:
    with pytest.raises(AttributeError):
        replace(Path, "of_old", lambda old: old)


def test_every_fault_is_documented() -> None:
    with DOCUMENT.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    assert [title for title, *_ in rows] == [m.title for m in MUTATIONS.values()]


@pytest.mark.parametrize("page", ["mutations.md", "stress.csv"])
def test_a_page_says_how_many_there_are(page: str) -> None:
    text = (DOCUMENT.parent / page).read_text("utf-8")
    assert re.findall(r"in (\d+) ways", text) == [str(len(MUTATIONS))]
