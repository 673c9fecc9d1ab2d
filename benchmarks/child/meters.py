"""What a process has used: processor time, memory, threads.  Linux only; reads ``/proc``."""
from __future__ import annotations

import os
import time
from pathlib import Path

TICK_S = 1 / os.sysconf('SC_CLK_TCK')


def family(pid):
    """The process `pid` and its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f'/proc/{parent}/task').glob('*/children'):
            found.extend(map(int, task.read_text().split()))
    return found


def cpu_of(pid):
    """Seconds of processor time, user and system, of `pid` and its descendants, in steps of `TICK_S`."""
    total = 0
    for member in family(pid):
        fields = Path(f'/proc/{member}/stat').read_text().rpartition(')')[2].split()
        total += sum(map(int, fields[11:15]))  # own and those of ended children, user and system
    return total * TICK_S


def anonymous_bytes():
    """Memory of this process that is not pages of files."""
    return _status('RssAnon') * 1024


def thread_count():
    """Threads of this process."""
    return _status('Threads')


def _status(name):
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1])
    raise LookupError(name)


class Spent:
    """Processor seconds of this process and of a server, summed over the blocks that it is around."""

    def __init__(self, server):
        self._server = server
        self._client_before = self._server_before = 0.0
        self.client_s = self.server_s = 0.0

    def __enter__(self):
        self._server_before = self._server_now()
        self._client_before = time.process_time()
        return self

    def __exit__(self, *_):
        self.client_s += time.process_time() - self._client_before
        self.server_s += self._server_now() - self._server_before

    def _server_now(self):
        return cpu_of(self._server) if self._server else 0.0
