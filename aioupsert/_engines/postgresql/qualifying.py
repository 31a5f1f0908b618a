"""
Names of functions, operators and types that do not depend on the search_path.

A function of a schema in the caller's search_path can match the arguments of a call
better than the one of pg_catalog that is meant, and then runs with the caller's rights.
So everything of PostgreSQL's own is qualified. This holds for operators too, except for
those that only grammar names: NULLIF, IN, LIKE, USING, IS DISTINCT FROM, and CASE with an
operand look up ``=`` in the search_path, and so are not written.

References:
    PostgreSQL, "Functions" (10.3, type conversion), "Operator Calls" (4.2.5).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aioupsert._plan import Resolved

PG_CATALOG: Final = "pg_catalog"


def operator(name: str, schema: str = PG_CATALOG) -> str:
    """Write an operator of a schema; without a schema, by the search_path."""
    return f"OPERATOR({schema}.{name})" if schema else name


EQUALS: Final = operator("=")
LESS: Final = operator("<")
CONCATENATED: Final = operator("||")

# Literals and quoted names stay as they are. Operators stand between spaces. A name that
# is followed by a parenthesis at once is a function, or COALESCE, which is grammar.
_PARTS: Final = re.compile(
    r"""
    ::(?P<type>"?\w+"?)
    | '(?:[^']|'')*' | "[^"]*"
    | (?<![\w.])(?!coalesce\()(?P<function>[a-z]\w*)(?=\()
    | (?<=\s)(?P<operator>[-+*/<>=~!&|?]+)(?=\s)
    """,
    re.VERBOSE,
)


def qualified(sql: str) -> str:
    """Qualify the functions, operators and types of a statement of this library."""
    return _PARTS.sub(_qualified_part, sql)


def _qualified_part(part: re.Match[str]) -> str:
    match part.lastgroup:
        case "type":
            return f"::{PG_CATALOG}.{part['type']}"
        case "function":
            return f"{PG_CATALOG}.{part['function']}"
        case "operator":
            return operator(part["operator"])
        case _:
            return part[0]


def is_built_in(expression: Resolved) -> bool:
    """Return whether the type of an expression is known, with operators in pg_catalog."""
    match expression.kind:
        case "call" | "sql":
            return False
        case "literal":
            return expression.name not in {"list", "other", "bare"}
        case "operator" | "function":
            return all(map(is_built_in, expression.args))
        case _:
            column = expression.column
            return column is None or column.operators == PG_CATALOG
