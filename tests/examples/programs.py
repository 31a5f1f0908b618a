"""The programs of the examples, started as their READMEs say."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

# Seconds; long enough for a slow machine.
TIMEOUT: Final = 30


class Program:
    """One that runs, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def wait_for(self, pattern: str) -> re.Match[str]:
        """What it prints next, or has printed."""
        end = time.monotonic() + TIMEOUT
        while True:
            # Asked first: what it printed before it ended is read.
            ended = self.process.poll() is not None
            if found := re.search(pattern, self.log.read_text("utf-8")):
                return found
            if ended or time.monotonic() > end:
                why = "ended" if ended else "is silent"
                msg = f"{why}, without {pattern!r}:\n{self.log.read_text('utf-8')}"
                raise AssertionError(msg)
            time.sleep(0.02)

    def stop(self, number: int) -> int:
        """Send the signal; give the exit code, once it has ended."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


def documented(example: str, marker: str) -> list[str]:
    """The command of the example's README that has the marker, without its set-up."""
    return command_in(ROOT / "examples" / example / "README.md", marker)


def command_in(readme: Path, marker: str) -> list[str]:
    """The command of the README that has the marker, without its set-up."""
    blocks = re.findall(r"```console\n(.+)\n```", readme.read_text("utf-8"))
    (line, *_) = [block for block in blocks if marker in block]
    program, *arguments = shlex.split(line.split(" && ")[-1])
    # The scripts of this environment, where the README has a new one.
    assert program.startswith(".venv/bin/")
    return [str(Path(sys.executable).with_name(Path(program).name)), *arguments]


def environment(variables: dict[str, str]) -> dict[str, str]:
    """What is printed must be seen at once, and have no colours."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", **variables}


@contextmanager
def started(words: list[str], log: Path, **variables: str) -> Iterator[Program]:
    """Run it, and end it with the block, whatever happens."""
    with (
        log.open("wb") as output,
        subprocess.Popen(  # noqa: S603 - the READMEs' own
            words,
            cwd=ROOT,
            env=environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            yield Program(process, log)
        finally:
            process.kill()
    printed = log.read_text("utf-8")
    assert "Traceback" not in printed, printed
    assert "Warning" not in printed, printed


def output(words: list[str], code: int = 0, **variables: str) -> str:
    """Run it to its end, which has the exit code; what it printed."""
    done = subprocess.run(  # noqa: S603 - as above
        words,
        cwd=ROOT,
        env=environment(variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr
