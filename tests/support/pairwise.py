"""Some of the combinations of parameters, so that any two values meet in one of them."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairwise(*parameters: Iterable[Any]) -> list[tuple[Any, ...]]:
    """
    Return few combinations in which any two values of two parameters come together.

    Most faults need one value or two to show, and all combinations are many times more.
    """
    values = [[*parameter] for parameter in parameters]
    candidates = [*product(*map(range, map(len, values)))]
    missing = {pair for places in candidates for pair in _pairs(places)}
    chosen = []
    while missing:
        best = max(candidates, key=lambda places: len(missing & _pairs(places)))
        missing -= _pairs(best)
        chosen.append(tuple(values[n][place] for n, place in enumerate(best)))
    return chosen


def _pairs(places: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
    return {*combinations(enumerate(places), 2)}
