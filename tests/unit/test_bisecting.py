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


def searching(rows: Rows, lacking: Sequence[int] = ()) -> tuple[Search, Batch]:
    groups, _ = RowGrouper(read_bulk_request(key="id")).group(
        rows, TABLE, engine_of(None)
    )
    batch = Batch([100 + at for at in range(len(rows))], rows)
    search = Search(batch, ERROR, some_pass=False)
    search.suspect_from(groups, lacking)
    return search, batch


def numbers(batch: Batch) -> list[int]:
    return [at - 100 for at in batch.positions]


def parts(search: Search, batch: Batch) -> list[list[int]]:
    """The parts of a batch that fails, if all rows of each but the last one pass."""
    found: list[list[int]] = []
    rest = batch
    while rest.rows:
        part, rest = search.split(rest, has_fault=True)
        found.append(numbers(part))
        if rest.rows:
            search.note_passed(part)
    return found


def first_part(search: Search, batch: Batch, *, has_fault: bool = True) -> list[int]:
    part, rest = search.split(batch, has_fault=has_fault)
    assert sorted([*part.positions, *rest.positions]) == [*batch.positions]
    return numbers(part)


def test_a_batch_is_halved_as_long_as_nothing_is_known() -> None:
    search, batch = searching(rows_of(8, ()))
    assert first_part(search, batch) == [0, 1, 2, 3]
    assert [s.positions for s in search.samples()] == [[100], [107], [104]]


def test_rows_that_are_not_known_to_fail_are_written_together() -> None:
    search, batch = searching(rows_of(8, ()))
    assert first_part(search, batch, has_fault=False) == [*range(8)]


def test_what_is_known_to_fail_is_halved_until_one_row_is_left() -> None:
    search, batch = searching(rows_of(8, ()))
    assert parts(search, batch) == [[0, 1, 2, 3], [4, 5], [6], [7]]


def test_rows_like_one_at_fault_are_likely_at_fault() -> None:
    search, batch = searching(rows_of())
    search.note_fault(102)
    others = [n for n in range(16) if n not in {5, 11}]
    part, rest = search.split(batch, has_fault=True)
    assert (numbers(part), numbers(rest)) == (others, [5, 11])
    assert not search.is_likely(100)
    assert search.is_likely(105)
    assert first_part(search, rest) == [5, 11]
    search.note_fault(105)
    search.note_fault(111)
    assert first_part(search, batch) == [*range(7)]
    assert not search.is_likely(111)


def test_rows_that_lack_a_value_are_suspected_from_the_start() -> None:
    bad = (2, 5, 11)
    search, batch = searching(rows_of(16, bad), bad)
    part, rest = search.split(batch, has_fault=True)
    assert numbers(part) == [n for n in range(16) if n not in bad]
    assert (numbers(rest), search.is_likely(105)) == ([*bad], True)
    search.note_passed(batch.some([5]))
    assert not search.is_likely(102)


def test_a_single_row_that_lacks_a_value_is_suspected_until_it_passes() -> None:
    search, batch = searching(rows_of(4, (1,)), (1,))
    assert search.is_likely(101)
    search.note_passed(batch.some([1]))
    assert not search.is_likely(101)


def test_of_many_rows_that_lack_a_value_none_is_suspected() -> None:
    bad = range(5)
    search, batch = searching(rows_of(16, bad), bad)
    assert first_part(search, batch) == [*range(8)]


def test_rows_like_one_that_passed_are_not_suspected() -> None:
    search, batch = searching(rows_of())
    search.note_passed(batch.some([5]))
    assert search.some_pass
    search.note_fault(102)
    assert first_part(search, batch) == [*range(8)]


def test_a_suspicion_ends_when_a_suspect_passes() -> None:
    search, batch = searching(rows_of())
    search.note_fault(102)
    search.note_passed(batch.some([5]))
    assert not search.is_likely(111)


def test_rows_that_may_have_one_key_keep_their_order() -> None:
    rows = [{**row, "id": 1} for row in rows_of(12, (2, 5, 6))]
    search, batch = searching(rows)
    assert not search.in_any_order
    search.note_fault(102)
    part, rest = search.split(batch, has_fault=True)
    assert numbers(part) == [0, 1, 2, 3, 4]
    part, rest = search.split(rest, has_fault=True)
    assert numbers(part) == [5, 6]
    assert first_part(search, rest, has_fault=False) == [7, 8, 9, 10, 11]


def test_where_faults_are_many_few_rows_are_written_together() -> None:
    search, batch = searching(rows_of(100, ()))
    sizes: list[int] = []
    for number in range(16):
        search.note_fault(100 + number)
        sizes.append(len(first_part(search, batch, has_fault=False)))
    assert sizes[:4] == [22, 11, 7, 5]
    assert sizes[12:] == [2, 100, 100, 100]
    assert search.is_likely(150)  # so each of them is written by itself
    search.note_passed(batch.some(range(50, 60)))
    assert len(first_part(search, batch, has_fault=False)) == 2
    search.note_passed(batch.some(range(60, 100)))
    assert 2 < len(first_part(search, batch, has_fault=False)) < 20


def test_after_very_many_rows_that_passed_all_are_written_together() -> None:
    search, batch = searching(rows_of(100, ()))
    search.note_fault(100)
    for _ in range(1_000):
        search.note_passed(batch)
        assert len(first_part(search, batch, has_fault=False)) >= 22


def test_cells_without_a_hash_say_nothing() -> None:
    rows: Rows = [{"id": n, "s": [] if n % 4 else {}} for n in range(8)]
    search, batch = searching(rows)
    search.note_fault(100)
    assert first_part(search, batch) == [0, 1, 2, 3]
