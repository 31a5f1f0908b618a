"""Figures as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

mpl.use("agg")

OURS: Final = "#3f51b5"
OTHERS: Final = "#9e9e9e"


class Point(NamedTuple):
    """The figures of both ways at one place of the x axis."""

    x: int
    ours: float
    other: float


def save(figure: Figure, path: Path) -> None:
    """Write the picture as SVG and as PNG."""
    for ending in (".svg", ".png"):
        figure.savefig(path.with_name(path.name + ending), dpi=110)
    plt.close(figure)


def draw_lines(
    panels: Mapping[str, Sequence[Point]],
    path: Path,
    *,
    labels: tuple[str, str],
    x_label: str,
    y_label: str,
    shared_log_scale: bool = False,
) -> None:
    """
    Draw a panel for each title, with a line for us and one for the other way.

    Args:
        panels: The points of each panel, by its title.
        path: Where to, without the ending.
        labels: What the lines are called.
        x_label: What the x axis shows; its scale is logarithmic.
        y_label: What the y axis shows.
        shared_log_scale: Whether the y axis is logarithmic and the same in all panels;
            otherwise it starts at zero.
    """
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(12, 3.6),
        sharey=shared_log_scale,
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, points) in zip(axes.flat, panels.items(), strict=True):
        xs = [point.x for point in points]
        axis.plot(xs, [point.ours for point in points], "o-", color=OURS)
        axis.plot(xs, [point.other for point in points], "o--", color=OTHERS)
        axis.legend(labels, fontsize="small")
        axis.set_xscale("log")
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        axis.set_title(title, fontsize=10)
        if shared_log_scale:
            axis.set_yscale("log")
            axis.label_outer()
        else:
            axis.set_ylim(bottom=0)
    save(figure, path)
