"""The figures, and the tables that they are printed in."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rich.table import Table

from benchmarks.peers.library import Peer
from benchmarks.support.report import show
from benchmarks.support.timing import ratio

COLUMNS: Final = ("library", "ms", "to aioupsert", "quartiles", "notes")


class Figure(NamedTuple):
    """
    One line of the result.

    Attributes:
        database: PostgreSQL or SQLite.
        delay: How much longer a round trip is, in milliseconds.
        case: What was done.
        peer: By which library.
        seconds: For one call, or for all rows: the median over the turns.
        ratio: This library's time divided by aioupsert's: the median over the turns.
        low: The lower quartile of the ratio.
        high: The upper one.
        note: What it does other than what was asked.
    """

    database: str
    delay: float
    case: str
    peer: str
    seconds: float
    ratio: float
    low: float
    high: float
    note: str

    def cells(self) -> tuple[str, ...]:
        """Return the line for a table."""
        return (
            self.peer,
            f"{self.seconds * 1000:.3f}",
            f"{self.ratio:.2f}",
            f"{self.low:.2f} to {self.high:.2f}",
            self.note,
        )


def figures_of(
    times: Mapping[str, Sequence[float]],
    notes: Mapping[str, str],
    database: str,
    delay: float,
    case: str,
) -> list[Figure]:
    """Return the figures of all libraries, of which the first is aioupsert."""
    found: list[Figure] = []
    ours = next(iter(times.values()))
    for peer, seconds in times.items():
        low, middle, high = ratio(seconds, ours)
        median = statistics.median(seconds)
        found.append(
            Figure(database, delay, case, peer, median, middle, low, high, notes[peer])
        )
    return found


def groups_of(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    """Return the figures that belong together under their title, the quickest first."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        network = f", {figure.delay:g} ms away" if figure.delay else ""
        title = f"{figure.database}{network}: {figure.case}"
        groups.setdefault(title, []).append(figure)
    for group in groups.values():
        group.sort(key=lambda figure: figure.seconds)
    return groups


def show_tables(figures: Sequence[Figure]) -> None:
    for title, group in groups_of(figures).items():
        table = Table(*COLUMNS, title=title, title_justify="left")
        for figure in group:
            table.add_row(*figure.cells())
        show(table)


def markdown(figures: Sequence[Figure], peers: Sequence[Peer]) -> str:
    """Return the tables as Markdown, with the page that documents each library."""
    lines: list[str] = []
    for title, group in groups_of(figures).items():
        lines += [f"## {title}", "", line_of(COLUMNS), line_of(["---"] * len(COLUMNS))]
        lines += [*(line_of(figure.cells()) for figure in group), ""]
    measured = {figure.peer for figure in figures}
    pages = {peer.name: peer.source for peer in peers if peer.name in measured}
    lines += ["## Where each is documented", ""]
    lines += [f"- {name}: {page}" for name, page in pages.items()]
    return "\n".join(lines) + "\n"


def line_of(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


def joined(*notes: str) -> str:
    """Return the notes that are not empty as one."""
    return "; ".join(note for note in notes if note)
