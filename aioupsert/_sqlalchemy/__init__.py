"""SQLAlchemy's connections, sessions, tables and mapped classes."""
