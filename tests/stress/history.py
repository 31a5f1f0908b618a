"""
What clients did, and whether what is stored can have come of it.

A client records each operation when it ends: with its result, with an error that says
that nothing was done (failed), or without knowing (a lost connection, a cancellation).
A checker compares the records with the rows that are there in the end, and says what
cannot be. The checkers know no database.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Awaitable, Collection, Iterable, Mapping
from time import monotonic
from typing import Any, Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["add", "put", "read", "delete"]
Outcome: TypeAlias = Literal["ok", "failed", "unknown"]


class Operation(NamedTuple):
    """
    What one client did to one key.

    Attributes:
        kind: To add a number, to put a value, to read the value, to delete the row.
        key: The row's.
        value: What was added, put or read; of a row that was deleted what it held, or
            None where there was none.
        outcome: How it ended.
        created: Whether it said that it created the row.
        invoked: When it began.
        returned: When it ended; never, if nobody knows that it has.
    """

    kind: Kind
    key: Any
    value: Any = None
    outcome: Outcome = "ok"
    created: bool = False
    invoked: float = 0.0
    returned: float = 0.0


NEVER: Final = float("inf")


class History:
    """
    What all clients did.

    Attributes:
        operations: Every operation that has ended.
        errors: What those that did not succeed raised.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.errors: list[BaseException] = []

    async def record(
        self,
        kind: Kind,
        key: Any,
        work: Awaitable[tuple[Any, bool]],
        value: Any = None,
        *,
        failed: tuple[type[BaseException], ...] = (),
        unknown: tuple[type[BaseException], ...] = (),
    ) -> bool:
        """
        Do an operation and write down how it ended; whether it did well.

        Args:
            kind: What it is.
            key: The row's.
            work: Does it; gives the value that it found, if it is one that finds, and
                whether it created the row.
            value: What is added or put.
            failed: Errors after which nothing is done.
            unknown: Errors after which nobody knows. Any other error is raised.
        """
        invoked = monotonic()
        outcome: Outcome = "ok"
        created = False
        try:
            found, created = await work
        except failed as exc:
            outcome = "failed"
            self.errors.append(exc)
        except unknown as exc:
            outcome = "unknown"
            self.errors.append(exc)
        else:
            if kind in {"read", "delete"}:
                value = found
        returned = NEVER if outcome == "unknown" else monotonic()
        self.operations.append(
            Operation(kind, key, value, outcome, created, invoked, returned)
        )
        return outcome == "ok"


def by_key(operations: Iterable[Operation]) -> dict[Any, list[Operation]]:
    found: dict[Any, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.outcome != "failed":
            found[operation.key].append(operation)
    return found


def wrong_counters(
    operations: Iterable[Operation], stored: Mapping[Any, int]
) -> list[str]:
    """What was added, and not deleted, is there: once each, and nothing else."""
    found = by_key(operations)
    wrong = [f"{key!r} was never added to" for key in stored if key not in found]
    for key, mine in found.items():
        known = sum(
            op.value if op.kind == "add" else -(op.value or 0)
            for op in mine
            if op.outcome == "ok" and op.kind in {"add", "delete"}
        )
        doubtful = [op for op in mine if op.outcome == "unknown"]
        most = known + sum(op.value for op in doubtful if op.kind == "add")
        # A deletion in doubt may have taken all that was there.
        least = 0 if any(op.kind == "delete" for op in doubtful) else known
        if not least <= stored.get(key, 0) <= most:
            wrong.append(f"{key!r} holds {stored.get(key, 0)}, not {least} to {most}")
    return wrong


def wrong_flags(operations: Iterable[Operation], present: Collection[Any]) -> list[str]:
    """A row is created once more than it is deleted, or as often: created = deleted + there."""
    wrong: list[str] = []
    for key, mine in by_key(operations).items():
        created = sum(op.created for op in mine if op.outcome == "ok")
        deleted = sum(
            op.kind == "delete" and op.value is not None
            for op in mine
            if op.outcome == "ok"
        )
        doubtful = [op.kind for op in mine if op.outcome == "unknown"]
        deletions = doubtful.count("delete")
        creations = len(doubtful) - deletions - doubtful.count("read")
        there = key in present
        if not (
            created <= deleted + there + deletions
            and deleted + there <= created + creations
        ):
            wrong.append(
                f"{key!r} was created {created} times, deleted {deleted} times, and is"
                f" {'' if there else 'not '}there ({len(doubtful)} in doubt)"
            )
    return wrong


def wrong_members(
    operations: Iterable[Operation], stored: Collection[Any]
) -> list[str]:
    """Every key that was put is there, and none that was not."""
    ops = list(operations)
    put = {op.key for op in ops if op.outcome == "ok"}
    perhaps = {op.key for op in ops if op.outcome == "unknown"}
    there = set(stored)
    return [
        *(f"{key!r} is lost" for key in put - there),
        *(f"{key!r} was never put" for key in there - put - perhaps),
    ]


def wrong_values(
    operations: Iterable[Operation], stored: Mapping[Any, Any]
) -> list[str]:
    """
    Whoever reads finds the last value: one that no other has certainly replaced.

    Each value is put once. What is stored in the end is one more read.
    """
    ops = list(operations)
    ends = [
        Operation("read", key, value, invoked=NEVER, returned=NEVER)
        for key, value in stored.items()
    ]
    wrong: list[str] = []
    for key, mine in by_key(itertools.chain(ops, ends)).items():
        puts = {op.value: op for op in mine if op.kind == "put"}
        certain = [op for op in puts.values() if op.outcome == "ok"]
        for read in mine:
            if read.kind != "read" or read.outcome != "ok":
                continue
            if read.value is None:
                if any(put.returned < read.invoked for put in certain):
                    wrong.append(f"{key!r} was read as missing after it was put")
                continue
            source = puts.get(read.value)
            if source is None or source.invoked > read.returned:
                wrong.append(
                    f"{key!r} was read as {read.value!r}, which nobody had put"
                )
            elif any(
                source.returned < put.invoked and put.returned < read.invoked
                for put in certain
            ):
                wrong.append(f"{key!r} was read as {read.value!r}, which was replaced")
    return wrong
