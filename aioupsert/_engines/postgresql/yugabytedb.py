"""
YugabyteDB, a distributed database with PostgreSQL's SQL.

Experimental, by its documentation. It has no xmax, so that INSERT ... ON CONFLICT DO
UPDATE cannot say what it did, and is not used unless RETURNING has the old row.

References:
    YugabyteDB, issue 24843 (system columns).
"""

from __future__ import annotations

from typing import Final

HAS_XMAX: Final = "current_setting('server_version') !~~ '%-YB-%'"
"""An expression of the catalog query; the version is such as 15.12-YB-2025.1.0.0-b0."""
