"""The outcomes of transactions in each other's way, as the documentation lists them."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

DOCUMENT: Final = (
    Path(__file__).parents[2] / "docs" / "evidence" / "isolation-outcomes.csv"
)


class Listed(NamedTuple):
    """
    A line of the list.

    Attributes:
        situation: What happens.
        setting: What the first transaction does, or the steps of each.
        order: The order of the steps, if it is listed.
        call: The call, or several that have the same outcome.
        isolation: The level, or several.
        orders: How many orders have this outcome, if they are not listed one by one.
        outcome: What the calls returned, and the rows in the end.
    """

    situation: str
    setting: str
    order: str
    call: str
    isolation: str
    orders: str
    outcome: str


def documented(situation: str) -> list[Listed]:
    """Return the lines of a situation."""
    with DOCUMENT.open(encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(file)
    return [listed for listed in map(Listed._make, lines) if listed[0] == situation]


def document(lines: Iterable[Listed]) -> None:
    """Write the list."""
    with DOCUMENT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Listed._fields)
        writer.writerows(lines)
