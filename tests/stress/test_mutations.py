"""Every mutation still has the text that it replaces."""

import re
import shutil
from pathlib import Path

import pytest

from tests.stress.mutations import DOCUMENT, MUTATIONS, ROOT, Mutation, mutate


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m.name for m in MUTATIONS])
def test_a_mutation_can_be_made(mutation: Mutation, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "aioupsert", tmp_path / "aioupsert")
    mutate(tmp_path, mutation)
    with pytest.raises(LookupError, match="0 times"):
        mutate(tmp_path, mutation)


def test_every_mutation_is_documented() -> None:
    text = DOCUMENT.read_text("utf-8")
    assert [m.name for m in MUTATIONS if f"| {m.name} |" not in text] == []


@pytest.mark.parametrize("page", ["mutations.md", "stress.md"])
def test_a_page_says_how_many_there_are(page: str) -> None:
    text = (DOCUMENT.parent / page).read_text("utf-8")
    assert re.findall(r"in (\d+) ways", text) == [str(len(MUTATIONS))]
