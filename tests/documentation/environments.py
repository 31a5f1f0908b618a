"""Fresh environments, each with the packages that some page says to install."""

import fcntl
import subprocess
import sys
import venv
from hashlib import sha256
from pathlib import Path
from typing import Final

from tests.documentation.pages import ROOT

# Modules that no page imports need not be compiled.
_QUIET: Final = ("-q", "--no-compile", "--disable-pip-version-check")


class Environments:
    """One for each set of packages, shared by all workers of a run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python_with(self, packages: tuple[str, ...]) -> Path:
        """Return the Python of the environment, which is made when it is first asked for."""
        name = sha256("\n".join(packages).encode()).hexdigest()[:12]
        folder = self._folder / name
        ready = folder / "ready"
        python = folder / "bin" / "python"
        self._folder.mkdir(exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not ready.exists():
                venv.create(folder, clear=True)
                wheel = self._wheel()
                taken = [f"{wheel}{p[1:]}" if p[0] == "." else p for p in packages]
                pip = [sys.executable, "-m", "pip", "--python", str(python)]
                _run([*pip, "install", *_QUIET, *taken])
                ready.touch()
        return python

    def _wheel(self) -> Path:
        """Return the package as it is published, built once."""
        folder = self._folder / "wheel"
        if not folder.exists():
            build = ("hatchling", "build", "-t", "wheel", "-d", str(folder))
            _run([sys.executable, "-m", *build])
        (wheel,) = folder.iterdir()
        return wheel


def _run(command: list[str]) -> None:
    done = subprocess.run(  # noqa: S603  # ours
        command,
        cwd=ROOT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
