"""The figures as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from matplotlib import pyplot as plt

from benchmarks.peers.figures import Figure
from benchmarks.support.plots import OTHERS, OURS, save

# With more panels than this, each network has a row of its own.
PANELS_IN_THREE_COLUMNS: Final = 12


def draw(panels: Mapping[str, Sequence[Figure]], folder: Path, what: str) -> None:
    """Draw a panel for each title, with a bar for each figure, the quickest on top."""
    columns = 4 if len(panels) > PANELS_IN_THREE_COLUMNS else 3
    rows = -(-len(panels) // columns)
    picture, axes = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 3.4 * rows), squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, figures) in zip(axes.flat, panels.items(), strict=False):
        ordered = figures[::-1]  # from the bottom
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
    picture.tight_layout()
    save(picture, folder / f"peers-{what}")
