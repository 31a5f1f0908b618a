"""Where a failed batch is split: by halves, and around rows that are like those at fault."""

from collections.abc import Sequence
from typing import Any, Final

from aioupsert._engines.postgresql import engine_of
from aioupsert._execution.bisecting import Batch, Search
from aioupsert._plan import RowGrouper, read_bulk_request
from tests.unit.plans import column, table

TABLE: Final = table(column("n"), column("s", "text"))
ERROR: Final = Exception("of the whole batch")
Rows = Sequence[dict[str, Any]]


def rows_of(size: int = 16, bad: Sequence[int] = (2, 5, 11)) -> Rows:
    """Rows, some of which have no value."""
    return [
        {"id": number, "n": number, "s": None if number in bad else "x"}
        for number in range(size)
    ]


def searching(rows: Rows) -> tuple[Search, Batch]:
    groups, _ = RowGrouper(read_bulk_request(key="id")).group(
        rows, TABLE, engine_of(None)
    )
    batch = Batch([100 + at for at in range(len(rows))], rows)
    search = Search(batch, ERROR, some_pass=False)
    search.suspect_from(groups)
    return search, batch


def parts(search: Search, batch: Batch) -> list[list[int]]:
    return [[at - 100 for at in part.positions] for part in search.parts(batch)]


def test_a_batch_is_halved_as_long_as_nothing_is_known() -> None:
    search, batch = searching(rows_of(4, ()))
    assert parts(search, batch) == [[0, 1], [2, 3]]
    assert [s.positions for s in search.samples()] == [[100], [103], [102]]


def test_rows_like_one_at_fault_are_written_by_themselves() -> None:
    search, batch = searching(rows_of())
    search.note_fault(102)
    others = [n for n in range(16) if n not in {5, 11}]
    assert parts(search, batch) == [others, [5], [11]]
    search.note_fault(105)
    search.note_fault(111)
    assert parts(search, batch)[0] == [*range(8)]
    search.note_fault(103)  # of a kind of its own
    assert parts(search, batch)[0] == [*range(8)]


def test_rows_like_one_that_passed_are_not_suspected() -> None:
    search, batch = searching(rows_of())
    search.note_passed(batch.some([5]))
    assert search.some_pass
    search.note_fault(102)
    assert parts(search, batch)[0] == [*range(8)]


def test_a_suspicion_ends_when_a_suspect_passes() -> None:
    search, batch = searching(rows_of())
    search.note_fault(102)
    split = search.parts(batch)
    next(split)
    search.note_passed(next(split))
    assert [part.positions for part in split] == [[111]]


def test_rows_that_may_have_one_key_keep_their_order() -> None:
    rows = [{**row, "id": 1} for row in rows_of(8, (2, 5))]
    search, batch = searching(rows)
    search.note_fault(102)
    assert parts(search, batch) == [[0, 1, 2, 3, 4], [5], [6, 7]]


def test_cells_without_a_hash_say_nothing() -> None:
    rows: Rows = [{"id": n, "s": [] if n % 4 else {}} for n in range(8)]
    search, batch = searching(rows)
    search.note_fault(100)
    assert parts(search, batch) == [[0, 1, 2, 3], [4, 5, 6, 7]]
