"""A disk whose power may fail: what of a directory tree would be left, at each step.

`Platter` is a mixin for a `Runtime`.  The files are real ones; beside them it keeps what is surely on the
disk: of a file what it had at its last fsync, of a directory the names at its last.  After each step, of ours
or of ZODB's (`watch`), it takes a snapshot; `images` writes what a loss of power might leave of one: all that
is not sure may be lost, or the names are there and the contents are not, or the reverse, or some of both.
"""
from __future__ import annotations

import os
import random
import stat
import sys
from functools import partial
from typing import NamedTuple

import ZODB.FileStorage

LAZY, EAGER, HALF = 'lazy', 'eager', 'half'
#: How much of what is not sure survives: of the names, of the contents.  None: chance decides, for each.
WAYS = ((LAZY, LAZY), (EAGER, LAZY), (LAZY, EAGER), (EAGER, HALF), (None, None), (None, None))


class Node(NamedTuple):
    """A name in a directory: what it is, and where it leads."""

    mode: int
    inode: int
    target: str = ''  # of a symbolic link


class Snapshot(NamedTuple):
    """After the step `step`: what is sure, and what can be seen; what `told` the test at that time."""

    step: str
    names: dict
    contents: dict
    seen_names: dict
    seen_contents: dict
    told: tuple


class Platter:
    """See above.  What is in `root` when it is made is on the disk."""

    def __init__(self, root):
        super().__init__()
        self.root = str(root)
        self.told = []  # what has been promised to somebody so far
        self.snapshots = []
        self._kept = {}  # descriptors by inode: it is not used for another file
        self._names, self._contents = self._look()

    def release(self):
        for descriptor in self._kept.values():
            os.close(descriptor)

    def _look(self):
        names, contents = {}, {}
        for where, directories, files in os.walk(self.root):
            names[self._inode(where)] = here = {}
            for name in (*directories, *files):
                path = os.path.join(where, name)
                mode, inode = os.lstat(path).st_mode, self._inode(path)
                here[name] = Node(mode, inode, os.readlink(path) if stat.S_ISLNK(mode) else '')
                if stat.S_ISREG(mode):
                    contents[inode] = read(path)
        return names, contents

    def _inode(self, path):
        inode = os.lstat(path).st_ino
        if inode not in self._kept:
            self._kept[inode] = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        return inode

    def step(self, what):
        """Something has happened."""
        self.snapshots.append(Snapshot(what, dict(self._names), dict(self._contents), *self._look(),
                                       tuple(self.told)))

    def watch(self, monkeypatch):
        """Have steps of others seen, too."""
        monkeypatch.setattr(sys.modules[ZODB.FileStorage.FileStorage.__module__], 'fsync', self.fsync)
        for name in ('rename', 'mkdir', 'remove', 'chmod'):
            monkeypatch.setattr(os, name, partial(self._watched, getattr(os, name)))

    def _watched(self, function, *args, **keywords):
        result = function(*args, **keywords)
        self.step(f'{function.__name__} by ZODB')
        return result

    def fsync(self, fd):
        path = os.readlink(f'/proc/self/fd/{fd}')
        if path.startswith(self.root):
            inode, (names, contents) = os.fstat(fd).st_ino, self._look()
            if inode in names:
                self._names[inode] = names[inode]
            else:
                self._contents[inode] = contents[inode]
        self.step(f'fsync {os.path.relpath(path, self.root)}')

    def rename(self, old, new):
        super().rename(old, new)
        self.step(f'rename to {new}')

    def mkdir(self, path, *mode):
        super().mkdir(path, *mode)
        self.step(f'mkdir {path}')

    def remove(self, path):
        super().remove(path)
        self.step(f'remove {path}')

    def open(self, path, mode):
        file = super().open(path, mode)
        self.step(f'open {path}, {mode}')
        return file

    def images(self, directory):
        """For each snapshot and way: write what is left to a new directory; yields it, and the snapshot."""
        rng, count = random.Random(1), 0
        for snapshot in self.snapshots:
            for names, contents in WAYS:
                count += 1
                image = os.path.join(directory, str(count))
                os.mkdir(image)
                self._write(image, os.lstat(self.root).st_ino, snapshot, names, contents, rng)
                yield image, snapshot

    def _write(self, image, inode, snapshot, names, contents, rng):
        eager = (names or rng.choice((LAZY, EAGER))) == EAGER
        for name, node in (snapshot.seen_names if eager else snapshot.names).get(inode, {}).items():
            path = os.path.join(image, name)
            if stat.S_ISDIR(node.mode):
                os.mkdir(path)
                self._write(path, node.inode, snapshot, names, contents, rng)
            elif stat.S_ISLNK(node.mode):
                os.symlink(node.target, path)
            else:
                sure = snapshot.contents.get(node.inode, b'')
                seen = snapshot.seen_contents.get(node.inode, sure)
                how = contents or rng.choice((LAZY, EAGER, HALF))
                with open(path, 'wb') as file:
                    file.write({LAZY: sure, EAGER: seen, HALF: seen[:(len(sure) + len(seen)) // 2]}[how])


def read(path):
    with open(path, 'rb') as file:
        return file.read()
