"""Faults of the statements that are sent."""

from __future__ import annotations

import re
from typing import Final

from tests.stress.mutations.registry import changes_statements

# What is empty is not sent.
NOTHING: Final = ""


@changes_statements(
    "tests/hazards/test_transactions.py::test_a_lost_race_keeps_what_the_caller_wrote"
)
def no_savepoint(sql: str) -> str:
    """no savepoint around an insert in the caller's transaction."""
    is_one = sql.startswith(("SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO"))
    return NOTHING if is_one else sql


@changes_statements(
    "tests/hazards/test_bulk_cancellation.py"
    "::test_at_every_suspension_point_all_rows_are_written_or_none"
)
def no_rollback(sql: str) -> str:
    """a transaction is left open after an error."""
    return NOTHING if sql == "ROLLBACK" else sql


@changes_statements(
    "tests/hazards/test_sqlite_busy.py::test_the_drivers_timeout_is_waited_for"
)
def begin_without_the_lock(sql: str) -> str:
    """a transaction on SQLite begins without the write lock."""
    return sql.replace("BEGIN IMMEDIATE", "BEGIN")


@changes_statements(
    "tests/conformance/test_names.py::test_tables_and_columns_may_have_any_name"
)
def names_are_not_quoted(sql: str) -> str:
    """names are not quoted."""
    return re.sub(r'"((?:[^"]|"")*)"', lambda name: name[1].replace('""', '"'), sql)


@changes_statements(
    "tests/conformance/test_names.py::test_tables_and_columns_may_have_any_name"
)
def quotes_are_not_doubled(sql: str) -> str:
    """quotation marks in names are not doubled."""
    return sql.replace('""', '"')


@changes_statements(
    "tests/hazards/test_flags.py::test_names_of_tables_and_columns_do_not_collide"
)
def updated_is_reported_as_created(sql: str) -> str:
    """a native upsert reports an updated row as created."""
    return re.sub(r'"t"\.xmax \S+ 0|\bold\.(?:"[^"]*")+ IS NULL', "TRUE", sql)


@changes_statements(
    "tests/conformance/test_create_or_update.py::test_where_decides_whether_a_row_is_updated"
)
def where_is_true(sql: str) -> str:
    """where is ignored."""
    return sql.replace(" IS TRUE)", " IS TRUE OR TRUE)")


@changes_statements(
    "tests/hazards/test_bulk_races.py"
    "::test_rows_are_locked_in_the_order_of_their_keys_by_several_statements"
)
def batches_are_not_sorted(sql: str) -> str:
    """the rows of a batch are written in any order."""
    return re.sub(r" ORDER BY (?:(?!ORDER BY).)*?(?= ON CONFLICT| FOR NO KEY)", "", sql)


@changes_statements(
    "tests/hazards/test_races.py::test_a_lock_replaces_the_unique_index"
)
def locks_are_shared(sql: str) -> str:
    """callers do not wait for each other where a lock replaces the unique index."""
    return sql.replace("pg_advisory_xact_lock(", "pg_advisory_xact_lock_shared(")


@changes_statements(
    "tests/hazards/test_transactions.py::test_a_lost_race_keeps_what_the_caller_wrote"
)
def conflicts_are_errors(sql: str) -> str:
    """a single statement that loses a race fails."""
    return sql.replace(" ON CONFLICT DO NOTHING", "")


@changes_statements(
    "tests/hazards/test_schema_changes.py::test_another_search_path_is_another_table"
)
def defaults_of_any_table(sql: str) -> str:
    """a default is taken from the table that had the name before."""
    name = r"\bE?'(?:[^'\\]|\\.|'')*'::pg_catalog\.regclass"
    return re.sub(rf"{name} \S+ \d+::pg_catalog\.oid", "TRUE", sql)


@changes_statements(
    "tests/hazards/test_insert_first.py"
    "::test_at_other_levels_a_row_that_was_deleted_meanwhile_is_not_created"
)
def proposed_at_any_level(sql: str) -> str:
    """a row is proposed whatever the isolation level is."""
    level = (
        r"pg_catalog\.current_setting\('transaction_isolation'\) \S+ 'read committed'"
    )
    return re.sub(rf"{level}(?=.* DO UPDATE )", "TRUE", sql)


@changes_statements(
    "tests/hazards/test_stale_descriptions.py"
    "::test_what_has_been_added_meanwhile_is_known"
)
def what_is_new_is_unknown(sql: str) -> str:
    """triggers and children that a table has got since it was described are not known."""
    return re.sub(r" AND NOT c\.relhas\w+", "", sql)


@changes_statements(
    "tests/matrix/test_guest.py"
    "::test_rows_are_looked_up_by_an_index_after_the_table_has_grown"
)
def plans_are_kept(sql: str) -> str:
    """the plan of a batch for a small table is kept for a large one."""
    return sql.replace("generate_series(1, 1000000000)", "generate_series(1, 1)")


@changes_statements(
    "tests/conformance/test_bulk_atomic.py"
    "::test_the_temporary_table_that_is_left_is_empty"
)
def temporary_tables_are_left(sql: str) -> str:
    """the rows of a batch are left in the session's temporary table."""
    return NOTHING if sql.startswith("TRUNCATE pg_temp.") else sql


@changes_statements(
    "tests/hazards/test_coalescer.py::test_counters_are_counted_as_by_single_calls"
)
def counters_begin_at_zero(sql: str) -> str:
    """a new counter begins at 0, whatever the column's default is."""
    return sql.replace(
        "pg_catalog.pg_get_expr(d.adbin, d.adrelid)",
        r"regexp_replace(pg_catalog.pg_get_expr(d.adbin, d.adrelid), '^\d+$', '0')",
    )
