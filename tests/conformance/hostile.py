"""Texts that would mean something else, were they ever taken for SQL."""

import random
from typing import Final

# They end a name or a text, start a comment, or stand for a parameter.
PIECES: Final = (
    *('"', '""', "'", ";", "--", "/*", "*/", "\\", "$1", "$$", "?", ":a", "%", "%s"),
    *(
        "{}",
        "{0}",
        "E'",
        "U&",
        "\n",
        "\r",
        "\t",
        " ",
        ".",
        ",",
        "(",
        ")",
        "=",
        "\u0001",
    ),
    *("ü", "名", "😀", "\u202e", "\ufeff", "\u2019", "\uff02", "A", "z", "0"),
    *("DROP TABLE canary", "SELECT", "UNION", " OR 1=1", " AS x", "pg_sleep(9)"),
)


def hostile_texts(count: int, *, shorter_than: int) -> list[str]:
    """Make different texts out of the pieces; the length is in bytes."""
    chance = random.Random(count)  # noqa: S311  # the same texts in each run
    texts: dict[str, None] = {}
    while len(texts) < count:
        text = "".join(chance.choices(PIECES, k=chance.randint(1, 9)))
        if len(text.encode()) < shorter_than:
            texts[text] = None
    return [*texts]
