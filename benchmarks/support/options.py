"""Options that several benchmarks have."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path


def add_turns(parser: ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--turns", type=int, default=default, help="how often each way is measured"
    )


def add_check(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--check", action="store_true", help="fail if a figure is beyond its limit"
    )


def add_plot(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--plot", type=Path, help="draw the figures: a path, without .svg and .png"
    )
