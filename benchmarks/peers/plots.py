"""The figures as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

mpl.use("Agg")
# So many panels are a row for each network.
MANY = 12
OURS, OTHERS = "#3f51b5", "#9e9e9e"


def draw(panels: Mapping[str, Sequence[Any]], folder: Path, what: str) -> None:
    """Draw a panel for each title, with a bar for each figure, the quickest on top."""
    columns = 4 if len(panels) > MANY else 3
    rows = -(-len(panels) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.4 * rows), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, those) in zip(axes.flat, panels.items(), strict=False):
        ordered = those[::-1]  # from the bottom
        bars = axis.barh(
            [figure.peer for figure in ordered],
            [figure.seconds * 1000 for figure in ordered],
            color=[
                OURS if figure.peer.startswith("aioupsert") else OTHERS
                for figure in ordered
            ],
        )
        labels = [f"{figure.seconds * 1000:.3g}" for figure in ordered]
        axis.bar_label(bars, labels, padding=3, fontsize=8)
        axis.set_title(title, fontsize=10, loc="right")
        axis.set_xlabel("ms", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    fig.tight_layout()
    for ending in (".svg", ".png"):
        fig.savefig(folder / f"peers-{what}{ending}", dpi=110)
    plt.close(fig)
