"""
The arguments of a call, checked: first by themselves, then against the table.

The shape of a call (call.py) becomes a plan (plan.py), with its expressions resolved
(terms.py) and its key guarded (keys.py). Nothing here knows SQL or a driver.
"""

from aioupsert._plan.bulk_request import BulkRequest, read_bulk_request, read_key_names
from aioupsert._plan.merging import CallGrouper
from aioupsert._plan.plan import KeyColumn, Plan, make_plan
from aioupsert._plan.records import RejectedRow
from aioupsert._plan.request import Request, RequestShape, pairs, read_request
from aioupsert._plan.resolving import Assignment, Comparison, Resolved
from aioupsert._plan.rows import (
    RowGroup,
    RowGrouper,
    ValueSemantics,
    check_keys,
)

__all__ = [
    "Assignment",
    "BulkRequest",
    "CallGrouper",
    "Comparison",
    "KeyColumn",
    "Plan",
    "RejectedRow",
    "Request",
    "RequestShape",
    "Resolved",
    "RowGroup",
    "RowGrouper",
    "ValueSemantics",
    "check_keys",
    "make_plan",
    "pairs",
    "read_bulk_request",
    "read_key_names",
    "read_request",
]
