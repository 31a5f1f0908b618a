"""Where the temporary files of the tests go: into memory, where there is enough."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - tempfile makes what is in it
# Bytes: twice what the servers and files of a run take.
ENOUGH: Final = 2 << 30


def keep_in_memory() -> None:
    """
    Have `tempfile` and the programs that we start put their files into memory.

    Each commit to a file of SQLite waits for the disk, which takes longer than all else
    that a test does. TMPDIR says otherwise.
    """
    if "TMPDIR" not in os.environ and is_large(MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def is_large(folder: Path) -> bool:
    """Whether there is such a folder, with room for a run."""
    return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > ENOUGH


def folder_for_all() -> str:
    """A folder in which another user of this machine may have files, too."""
    # Our TMPDIR may be closed to them.
    is_memory = tempfile.gettempdir() == str(MEMORY)
    return str(MEMORY) if is_memory else "/tmp"  # noqa: S108 - as above
