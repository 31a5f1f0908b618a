"""
A plugin of pytest that breaks the library before the tests import it.

    pytest -p tests.stress.mutations.plugin --mutation no_savepoint ...

Without --mutation nothing is broken, but everything goes through the borders all the
same: that is the control.
"""

from __future__ import annotations

import sys

import pytest

from tests.stress.mutations import borders
from tests.stress.mutations.faults import MUTATIONS
from tests.stress.mutations.registry import REACHED


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutation", choices=[*MUTATIONS], help="Break the library so.")
    parser.addoption("--reached", help="A file to count in how often it was reached.")


def pytest_configure(config: pytest.Config) -> None:
    # They would have imported what is replaced here.
    tests = [name for name in sys.modules if name.rpartition(".")[2][:5] == "test_"]
    assert not any(name.startswith("tests.") for name in tests), tests
    borders.guard()
    if config.option.reached is not None:
        REACHED.open(config.option.reached)
    if config.option.mutation is not None:
        MUTATIONS[config.option.mutation].install()


def pytest_runtest_setup() -> None:
    REACHED.begin_test()
