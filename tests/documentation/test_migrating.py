"""What others are coming from does what docs/guides/coming-from.md says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import DOCS, ROOT, blocks

LIBRARIES = ("Django", "SQLAlchemy", "Tortoise", "sqlite-utils")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_code_of_a_library_does_what_the_page_says(
    library: str, lite_path: Path
) -> None:
    command = ["-m", "tests.documentation.others", library, str(lite_path)]
    done = subprocess.run(  # noqa: S603  # our own documentation
        [sys.executable, *command],
        cwd=ROOT,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_no_other_library_is_left_out() -> None:
    marks = {block.mark for block in blocks(DOCS / "guides" / "coming-from.md")}
    assert marks - {"", "PostgreSQL only", "SQLite only"} == {*LIBRARIES}
