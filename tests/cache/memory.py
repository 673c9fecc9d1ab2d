"""A disk that remembers every write, for the cache's tests.

`Disk` is a `Runtime` whose files are byte strings in memory.  It logs writes, syncs and changes of length;
`image` gives the file as a crash might have left it.  ``boot`` is the identity of the running machine.
"""
from __future__ import annotations

import errno
import io
import os

import zc.lockfile

from zeo_clone.loop.runtime import Runtime

WRITE, SYNC, TRUNCATE = 'write', 'sync', 'truncate'
SECTOR = 512


class MemoryFile(io.RawIOBase):
    """One open file."""

    def __init__(self, disk, path):
        super().__init__()
        self.disk = disk
        self.path = path

    def fileno(self):
        return self.path

    def readable(self):
        return True

    def truncate(self, size):
        self.disk.log.append((TRUNCATE, size, b''))
        apply_truncate(self.disk.files[self.path], size)
        return size

    def seek(self, offset, whence=os.SEEK_SET):
        assert (offset, whence) == (0, os.SEEK_END)
        return len(self.disk.files[self.path])


class MemoryLock:
    def __init__(self, disk, path):
        self.disk = disk
        self.path = path
        if path in disk.locks:
            raise zc.lockfile.LockError(path)
        disk.locks.add(path)

    def close(self):
        self.disk.locks.discard(self.path)


class Disk(Runtime):
    """Files in memory.  ``fail(at, length)`` before each write: how much the full disk takes, or None."""

    def __init__(self, files=None, boot=b'a' * 16):
        self.files = {path: bytearray(data) for path, data in (files or {}).items()}
        self.boot = boot
        self.log = []
        self.locks = set()
        self.fail = None
        self.now = 0.0

    def monotonic(self):
        return self.now

    def open(self, path, mode):
        if mode == 'w+b':
            self.files[path] = bytearray()
            self.log.append((TRUNCATE, 0, b''))
        elif path not in self.files:
            raise FileNotFoundError(path)
        return MemoryFile(self, path)

    def temporary_file(self, directory=None):
        self.files['temporary'] = bytearray()
        return MemoryFile(self, 'temporary')

    def rename(self, old, new):
        self.files[new] = self.files.pop(old)

    def pread(self, path, length, at):
        return bytes(self.files[path][at:at + length])

    def pwrite(self, path, data, at):
        taken = self.fail(at, len(data)) if self.fail is not None else None
        data = bytes(data[:taken])
        if data:
            self.log.append((WRITE, at, data))
            apply_write(self.files[path], at, data)
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    def fsync(self, path):
        self.log.append((SYNC, 0, b''))

    def file_identity(self, path):
        return self.boot

    def lock_file(self, path):
        return MemoryLock(self, path)

    def start_thread(self, target, name, *, daemon=True):
        target()


def apply_truncate(data, size):
    del data[size:]
    data.extend(bytes(size - len(data)))


def apply_write(data, at, written):
    end = at + len(written)
    if len(data) < end:
        data.extend(bytes(end - len(data)))
    data[at:end] = written


def apply_events(data, events):
    """Do to `data` what `events`, a part of a log, did."""
    for kind, at, written in events:
        if kind == WRITE:
            apply_write(data, at, written)
        elif kind == TRUNCATE:
            apply_truncate(data, at)
    return data


def killed_image(base, log, count, torn=None):
    """The file after `count` events of `log`; of the next, if a write, the first `torn` bytes too."""
    data = apply_events(bytearray(base), log[:count])
    if torn is not None and count < len(log) and log[count][0] == WRITE:
        kind, at, written = log[count]
        apply_write(data, at, written[:torn])
    return bytes(data)


def crashed_image(base, log, count, rng):
    """As `count` events left it on the disk: all up to the last sync, of those after it any, in parts."""
    synced = max((i for i in range(count) if log[i][0] == SYNC), default=-1)
    data = apply_events(bytearray(base), log[:synced + 1])
    chance = rng.choice((0.1, 0.5, 0.9))
    for kind, at, written in log[synced + 1:count]:
        if kind == TRUNCATE:
            if rng.random() < chance:
                apply_truncate(data, at)
        elif kind == WRITE:
            how = rng.random()
            if how < chance / 2:
                apply_write(data, at, written)
            elif how < chance:
                for start, end in sectors(at, len(written)):
                    if rng.random() < 0.5:
                        apply_write(data, at + start, written[start:end])
    return bytes(data)


def sectors(at, length):
    """The parts of a write of `length` bytes at `at` that lie in one sector each."""
    start = 0
    while start < length:
        end = min(length, start + SECTOR - (at + start) % SECTOR)
        yield start, end
        start = end
