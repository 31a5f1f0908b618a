"""
The arguments of a call, checked: first by themselves, then against the table.

The shape of a call (call.py) becomes a plan (plan.py), with its expressions resolved
(terms.py) and its key guarded (keys.py). Nothing here knows SQL or a driver.
"""

from aioupsert._plan.bulk import BulkCall, read_bulk_call, read_key_names
from aioupsert._plan.call import Call, Shape, pairs, read_call
from aioupsert._plan.calls import Calls
from aioupsert._plan.plan import KeyTerm, Plan, make_plan
from aioupsert._plan.records import Bad
from aioupsert._plan.rows import Group, Typing, check_keys, group_rows, share_rows
from aioupsert._plan.terms import Assignment, Comparison, Term

__all__ = [
    "Assignment",
    "Bad",
    "BulkCall",
    "Call",
    "Calls",
    "Comparison",
    "Group",
    "KeyTerm",
    "Plan",
    "Shape",
    "Term",
    "Typing",
    "check_keys",
    "group_rows",
    "make_plan",
    "pairs",
    "read_bulk_call",
    "read_call",
    "read_key_names",
    "share_rows",
]
