"""What a test may leave behind: nothing that runs.

Out: the child processes and non-daemon threads of this process, as sets that can be compared.
"""
from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from tests.support import spawner

JOIN_LIMIT_S = 5


def children():
    """The process ids of our children, ended but not waited for included; Linux only, else empty.  In place
    of a spawner those that it has forked for us."""
    found = children_of('self')
    for pid in spawner.pids():
        found.discard(pid)
        found |= children_of(pid)
    return found


def children_of(process):
    found = set()
    for thread in Path(f'/proc/{process}/task').glob('*/children'):
        with contextlib.suppress(OSError):  # the thread has just ended
            found.update(int(pid) for pid in thread.read_text().split())
    return found


def command_line(pid):
    try:
        words = Path(f'/proc/{pid}/cmdline').read_bytes().split(b'\0')
        return b' '.join(words).decode(errors='replace')
    except OSError:
        return '(gone)'


def foreground_threads():
    """The threads that would keep this process alive."""
    return {thread for thread in threading.enumerate() if not thread.daemon}


class Watch:
    """Remembers what runs now; `complaint` says what has been started since and still runs."""

    def __init__(self):
        self._children = children()
        self._threads = foreground_threads()

    def complaint(self, permitted=()):
        """A text, empty if nothing was left but the `permitted` process ids.

        Threads that are just ending are waited for.
        """
        lines = [f'child process {pid} of {os.getpid()}: {command_line(pid)}'
                 for pid in sorted(children() - self._children - set(permitted))]
        for thread in foreground_threads() - self._threads:
            thread.join(JOIN_LIMIT_S)
            if thread.is_alive():
                lines.append(f'thread {thread.name!r}')
        return '\n'.join(lines)
