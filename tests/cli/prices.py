"""A table of prices of two shops, and a list of one of them."""

from typing import Any, Final

from tests.cli.databases import CliDatabase

TABLE: Final = """
    CREATE TABLE t (
        shop integer, sku varchar(9), cents integer, gone_at timestamp,
        active boolean DEFAULT true, PRIMARY KEY (shop, sku)
    )
"""
STORED: Final = """
    INSERT INTO t (shop, sku, cents) VALUES
        (7, 'bolt', 10), (7, 'nut', 5), (7, 'washer', 2), (8, 'bolt', 9)
"""
KEY: Final = ("-k", "shop,sku")
SHOP: Final = (*KEY, "--scope", "shop=7")
TUESDAY: Final = "sku,cents\nbolt,12\nnut,5\nscrew,8\n"
MONDAY: Final = "sku,cents\nwasher,2\nnut,5\nbolt,10\n"


def stored(database: CliDatabase, columns: str = "shop, sku, cents") -> list[Any]:
    return database.query(f"SELECT {columns} FROM t ORDER BY shop, sku")
