"""A runtime that is not the real one, for proofs that nothing goes past it.

Its clocks show another time.  Files below `NOWHERE`, where nothing can be, are in a directory of the test:
whoever asks the system for them by himself finds nothing.  `threads` has the names of those that started.
"""
from __future__ import annotations

import os
import time
from types import SimpleNamespace

from zeo_clone.loop.runtime import Runtime

NOWHERE = '/nowhere'
#: Seconds by which its clocks differ from the real ones.
LATER_S = 1e9
#: Doors that take paths as their first arguments, and how many.
DOORS = {
    'open': 1, 'create': 1, 'rename': 2, 'remove': 1, 'copy': 2, 'mkdir': 1, 'listdir': 1, 'stat': 1,
    'lstat': 1, 'chmod': 1, 'utime': 1, 'symlink': 2, 'readlink': 1, 'sync_file': 1, 'sync_directory': 1,
    'open_directory': 1, 'open_to_lock': 1, 'may_write_in': 1, 'lock_file': 1,
}


class Elsewhere(Runtime):
    """One process's world, with its files below `directory`."""

    def __init__(self, directory):
        self.directory = str(directory)
        self.threads = []
        self.temporary_files = 0
        self.files = []  # all paths that were asked for

    def real(self, path):
        """Where a file of `NOWHERE` really is."""
        self.files.append(path)
        return self.directory + path[len(NOWHERE):] if str(path).startswith(NOWHERE) else path

    def monotonic(self):
        return time.monotonic() + LATER_S

    def time(self):
        return time.time() + LATER_S

    def start_thread(self, target, name, *, daemon=True):
        self.threads.append(name)
        return super().start_thread(target, name, daemon=daemon)

    def temporary_file(self, directory=None):
        self.temporary_files += 1
        return super().temporary_file(self.directory)

    def entries(self, directory):
        return [SimpleNamespace(name=entry.name, path=os.path.join(directory, entry.name),
                                is_dir=entry.is_dir, stat=entry.stat)
                for entry in super().entries(self.real(directory))]

    def environment(self, name):
        return ''


def _door(name, paths):
    def door(self, *args, **keywords):
        given = [*map(self.real, args[:paths]), *args[paths:]]
        return getattr(super(Elsewhere, self), name)(*given, **keywords)
    return door


for _name, _paths in DOORS.items():
    setattr(Elsewhere, _name, _door(_name, _paths))
