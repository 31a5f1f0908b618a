"""``python -m aioupsert``."""

from aioupsert.cli import main

if __name__ == "__main__":
    main()
