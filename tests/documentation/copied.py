"""
Run a file whose code may await, as `python -m asyncio` runs what is typed there.

    python copied.py FILE

It needs nothing but Python, so that it runs in an environment that has nothing but what
a page says to install.
"""

import ast
import asyncio
import inspect
import sys
from pathlib import Path

if __name__ == "__main__":
    path = Path(sys.argv[1])
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code = compile(path.read_text("utf-8"), path, "exec", flags=flags)
    running = eval(code)  # noqa: S307  # our own documentation
    if inspect.iscoroutine(running):
        asyncio.run(running)
