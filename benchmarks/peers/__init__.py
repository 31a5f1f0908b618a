"""
The same task in other libraries: one call, or many rows.

    python -m benchmarks peers one
    python -m benchmarks peers many

What is asked of them, and how it is measured, is in README.md beside this file.
"""

from benchmarks.peers.command import QUICK, add_options, run

__all__ = ["QUICK", "add_options", "run"]
