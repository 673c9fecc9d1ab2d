"""Locks between processes by locked files, for what processes do in a shared blob directory.

Any thread; a lock is held by one thread of one process of the machine.  The kernel releases it when its
process dies.  The file is removed by who held it last.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator


@contextlib.contextmanager
def locked(path: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` for a while; with `wait` false yields False if somebody else has it."""
    fd = _lock(path, wait)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            with contextlib.suppress(OSError):
                os.remove(path)  # while it is locked: who waits for it will see that it has gone
            os.close(fd)


def _lock(path: str, wait: bool) -> int | None:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        try:
            same = os.path.samestat(os.fstat(fd), os.stat(path))
        except FileNotFoundError:
            same = False
        if same:
            return fd
        os.close(fd)  # its last holder has removed it: lock the new one
