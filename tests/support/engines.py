"""Engines of SQLAlchemy, on the databases of tests."""

from typing import Any

from sqlalchemy import AsyncAdaptedQueuePool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine


def engine_on(driver: str, place: str, schema: str = "", **options: Any) -> AsyncEngine:
    """An engine on the file, or on the schema of the server."""
    if driver == "aiosqlite":
        # What newer versions take by themselves: a PRAGMA stays with its connection.
        options = {"poolclass": AsyncAdaptedQueuePool, **options}
        return create_async_engine(f"sqlite+aiosqlite:///{place}", **options)
    path = f"{schema},public"
    settings: dict[str, Any] = {
        "asyncpg": {
            "server_settings": {"search_path": path, "application_name": schema}
        },
        "psycopg": {"options": f"-csearch_path={path}", "application_name": schema},
    }
    server = place.partition("?")[0].partition("://")[2]
    url = f"postgresql+{driver}://{server}"
    return create_async_engine(url, connect_args=settings[driver], **options)
