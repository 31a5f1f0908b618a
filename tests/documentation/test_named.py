"""Every test that a page names is there."""

import re
from pathlib import Path

import pytest

from tests.documentation.pages import DOCS, PAGES, ROOT, page_name

NAMING = [*ROOT.glob("*.md"), *PAGES, *sorted(DOCS.rglob("*.csv"))]


@pytest.mark.parametrize("page", NAMING, ids=map(page_name, NAMING))
def test_a_test_that_is_named_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for file, test in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
        code = (ROOT / file).read_text("utf-8")
        assert test == "" or f"def {test}(" in code, f"{file}::{test}"
