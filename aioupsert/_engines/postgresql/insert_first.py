"""
Where ``INSERT ... ON CONFLICT DO UPDATE`` does what a call means: update, else insert.

It takes the server less time than a statement of several parts, and always uses the index.
But it proposes a row first, also where the row exists: it evaluates every value and default
of a new row, and whatever looks at a row that is to be inserted sees it. So it is only for
calls of which each value is the same on update and on create, or one that cannot fail; and
for tables of which nothing but one unique index looks at a row (`Table.may_propose`), and
did not begin to since they were described (`shape_guard`).

It locks the row in any case, so it is not for calls that may leave it unchanged. And it does
not find out that another transaction has deleted the row after this one's snapshot was
taken. At READ COMMITTED that is right, as each statement has a snapshot of its own. Above,
it does nothing, and the statement of several parts follows (`PostgresqlCall.at_any_level`).

References:
    PostgreSQL, "INSERT" (ON CONFLICT Clause), "Transaction Isolation".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aioupsert._plan.resolving import added_parameter

if TYPE_CHECKING:
    from aioupsert._plan import Plan, Resolved
    from aioupsert._plan.schema import Column


def may_insert_first(plan: Plan) -> bool:
    """Return whether a row may be proposed before it is known whether it exists."""
    table = plan.table
    return (
        table.may_propose
        and table.supports_on_conflict_update
        and not (plan.on_conflict or plan.exact_because or plan.lock)
        and not (plan.conditional or plan.old or plan.renames)
        and table.infers(plan.key_nulls)
        and not any(k.is_null or k.column.may_alter_values for k in plan.key)
        and _are_harmless(plan)
    )


def _are_harmless(plan: Plan) -> bool:
    """Return whether no value of the proposed row can fail, or do anything, on update."""
    keys = {k.column.name for k in plan.key}
    updates = {item.column.name: item.term for item in plan.update}
    proposed = {item.column.name: item.term for item in plan.insert}
    for column in plan.table.columns.values():
        created, updated = proposed.get(column.name), updates.get(column.name)
        if created is None:
            if not _may_be_left_out(column):
                return False
        elif column.name not in keys and not _is_harmless(column, created, updated):
            return False
    return True


def _may_be_left_out(column: Column) -> bool:
    default = column.default or ""
    return not column.required and (
        not default
        or (not column.may_alter_values and bool(_HARMLESS_DEFAULTS.fullmatch(default)))
    )


def _is_harmless(column: Column, created: Resolved, updated: Resolved | None) -> bool:
    if updated is None:
        # It matters on create only, so nothing may refuse it on update.
        if (created.kind, created.name) == ("function", "now"):
            return True
        is_sent = (created.kind, created.name) == ("value", "value")
        is_stored = column.unconstrained and not column.may_alter_values
        return is_sent and is_stored and column.nullable
    if created == updated:
        return all(part.kind in _SAME_ANYWHERE for part in created.walk())
    is_counted = added_parameter(updated, created, column) is not None
    return is_counted and counts_from_zero(column) and created.name == "+"


# A function of the caller's, or raw SQL, would be evaluated twice.
_SAME_ANYWHERE: Final = frozenset({"value", "literal", "operator", "function"})

# As the catalog writes them: a constant, with a cast or without; or the time.
_HARMLESS_DEFAULTS: Final = re.compile(
    r"""
    (?: -?[\d.]+ | '(?:[^']|'')*' | true | false | NULL ) (?: ::[\w .,"\[\]()]+ )?
    | now\(\) | CURRENT_TIMESTAMP | CURRENT_DATE | gen_random_uuid\(\)
    """,
    re.VERBOSE,
)


def counts_from_zero(column: Column) -> bool:
    """Return whether a new row's column holds exactly what is added to its default."""
    is_counter = column.type_name in {"int4", "int8"} and column.default == "0"
    return is_counter and column.unconstrained
