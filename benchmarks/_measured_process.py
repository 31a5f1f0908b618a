"""
The process that starts a command which `loader` measures.

    python -m benchmarks._measured_process COMMAND ...

It is small. The largest resident size of a process is never less than that of the one it
was started from, which in a benchmark that compares many rows is large. It prints the exit
code, the seconds by the clock and of the processor, and the largest resident size.
"""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":
    command = sys.argv[1:]
    nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=nowhere)
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    print(code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
