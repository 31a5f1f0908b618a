"""
Which combinations of its parameters a test runs with.

A test with two parameters or more runs with each value of each parameter at least once, not
with each combination of them: what is particular to a driver seldom depends on which of
forty values it is tried with, and all combinations take twice the time. Where it does, the
test has a list of pairs as one parameter (see `pairwise`), which is never thinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

import pytest

# The names of parameters, and what tells their values from others.
Value = tuple[tuple[str, ...], tuple[int, ...]]

OPTION: Final = "--combinations"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        default="1",
        metavar="N",
        help="which selection of each test's combinations of parameters to run:"
        " 1 (the default), 2, ..., or all of them with 'all'",
    )


# Last, so that what the command line selects is thinned and not the reverse.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    number = config.getoption(OPTION)
    if number == "all":
        return
    chosen: set[pytest.Item] = set()
    for _, group in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        cases = [*group]
        values = [parameters(case) for case in cases]
        chosen |= {cases[n] for n in selection(values, int(number))}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def parameters(item: pytest.Item) -> Sequence[Value]:
    """Return the values of the item, those of one `parametrize` together."""
    spec = getattr(item, "callspec", None)
    if spec is None:
        return ()
    names = {name: (name,) for name in spec.params}
    for mark in item.iter_markers("parametrize"):
        together = mark.args[0]
        group = (together,) if isinstance(together, str) else tuple(together)
        names.update(dict.fromkeys(group, group))
    # Not every value can be hashed or compared, and all items have the same ones.
    return [
        (group, tuple(id(spec.params[name]) for name in group))
        for group in dict.fromkeys(names.values())
    ]


def selection(combinations: Sequence[Sequence[Value]], number: int) -> list[int]:
    """
    Return the places of few combinations that have every value, each about as often.

    The second selection has none of the first, as long as there are others, and so on.
    """
    left = [*range(len(combinations))]
    for _ in range(number - 1):
        others = set(left) - {*covering(combinations, left)}
        if not others:
            break
        left = sorted(others)
    return covering(combinations, left)


def covering(
    combinations: Sequence[Sequence[Value]], places: Iterable[int]
) -> list[int]:
    """Return some of the places, at which every value that these have is found."""
    left = [*places]
    if all(len(combinations[n]) < 2 for n in left):
        return left
    missing = {value for n in left for value in combinations[n]}
    used = Counter[Value]()
    chosen: list[int] = []
    while left and (missing or not chosen):
        best = max(
            left,
            key=lambda n: (
                len(missing.intersection(combinations[n])),
                -sum(used[value] for value in combinations[n]),
            ),
        )
        left.remove(best)
        chosen.append(best)
        missing.difference_update(combinations[best])
        used.update(combinations[best])
    return sorted(chosen)
