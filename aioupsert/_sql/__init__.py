"""A checked plan as statements of a database, and the catalogs that describe tables."""
