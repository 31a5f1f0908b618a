"""The built pages, for all tests of a worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.pages import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built pages; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(  # noqa: S603  # our own command
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        # It tells of other programs otherwise.
        env={"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
    )
    return folder
