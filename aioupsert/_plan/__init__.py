"""
The arguments of a call, checked: first by themselves, then against the table.

A request (request.py) becomes a plan (plan.py), with its expressions resolved
(resolving.py) and its key checked (key_checks.py). A bulk request (bulk_request.py)
becomes one request for each kind of row: rows are read into columns (records.py), or are
columns of Arrow already (columnar.py), sorted by
their requests (rows.py) and put in order (groups.py); rows with one key, and the calls of a
coalescer (merging.py), become one write where they may (merge_rules.py). Nothing
here knows SQL or a driver.
"""

from aioupsert._plan.bulk_request import BulkRequest, read_bulk_request, read_key_names
from aioupsert._plan.columnar import ArrowReader, CopiedRows, is_columnar
from aioupsert._plan.groups import RowGroup, ValueSemantics, in_turns, keys_differ
from aioupsert._plan.merging import CallGrouper
from aioupsert._plan.plan import KEY_IS_GENERATED, KeyColumn, Plan, make_plan
from aioupsert._plan.records import RejectedRow
from aioupsert._plan.request import Request, RequestShape, pairs, read_request
from aioupsert._plan.resolving import Assignment, Comparison, Resolved
from aioupsert._plan.rows import (
    RowGrouper,
    check_keys,
    lacking_values,
    read_row_request,
)
from aioupsert._plan.sync_request import SyncRequest

__all__ = [
    "KEY_IS_GENERATED",
    "ArrowReader",
    "Assignment",
    "BulkRequest",
    "CallGrouper",
    "Comparison",
    "CopiedRows",
    "KeyColumn",
    "Plan",
    "RejectedRow",
    "Request",
    "RequestShape",
    "Resolved",
    "RowGroup",
    "RowGrouper",
    "SyncRequest",
    "ValueSemantics",
    "check_keys",
    "in_turns",
    "is_columnar",
    "keys_differ",
    "lacking_values",
    "make_plan",
    "pairs",
    "read_bulk_request",
    "read_key_names",
    "read_request",
    "read_row_request",
]
