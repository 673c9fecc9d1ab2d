"""Where an undo copies files of blobs: in a directory of its own.

ZODB's undo copies the file of an earlier revision under a name of ``tempfile``'s in the helper's `temp_dir`,
and gives it its name when it is whole.  There are uploads as well, and whatever clients that share the
directory write: nobody could tell what an undo had left when the disk was full or the server was killed.  So
the storage's helper names another directory to the thread that undoes.  It belongs to the server that has the
storage's lock, which may remove it at any time but that of the undo.

The loop thread undoes; a helper is asked in any thread.
"""
from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from typing import Any

from ZODB.blob import FilesystemHelper

from zeo_clone.loop.runtime import Runtime

#: In the directory of temporary files; unlike all that is called by others.
_NAME = re.compile('undo-[0-9a-f]{24}')


class Undo:
    """An undo that begins, in this thread.  `note` is called with the path of each copy, before it gets its
    name, and with its oid."""

    def __init__(self, runtime: Runtime, parent: str, note: Callable[[str, bytes], object]) -> None:
        self._runtime = runtime
        self._thread = runtime.get_ident()
        self.path = os.path.join(parent, f'undo-{runtime.randbytes(12).hex()}')
        self._made = False  # few undos are of blobs
        self._note = note
        self._noted: set[str] = set()

    def is_of_this_thread(self) -> bool:
        """Is it the calling thread that undoes?"""
        return self._thread == self._runtime.get_ident()

    def directory(self) -> str:
        """The directory, which is made.  Raises OSError."""
        if not self._made:
            self._runtime.mkdir(self.path, 0o700)
            self._made = True
        return self.path

    def names(self, oid: bytes) -> None:
        """It asks for the name of a revision: of that which it will copy, then of the copy."""
        for name in self._runtime.listdir(self.path) if self._made else ():
            if name not in self._noted:
                self._note(os.path.join(self.path, name), oid)
                self._noted.add(name)

    def end(self) -> None:
        """Remove what is there.  Raises OSError."""
        if self._made:
            remove(self._runtime, self.path)


class UndoHelper(FilesystemHelper):  # type: ignore[misc]
    """`helper`, with a `temp_dir` of its own for the thread that undoes."""

    def __init__(self, helper: FilesystemHelper) -> None:
        self.__dict__.update(vars(helper))
        self.common_dir: str = helper.temp_dir  # everybody's
        self.undo: Undo | None = None  # that is under way

    @property
    def temp_dir(self) -> str:
        """Where temporary files go.  Raises OSError."""
        undo = self.undo
        return self.common_dir if undo is None or not undo.is_of_this_thread() else undo.directory()

    def getBlobFilename(self, oid: bytes, tid: bytes) -> str:
        """The path of a revision's file."""
        undo = self.undo
        if undo is not None and undo.is_of_this_thread():
            undo.names(oid)
        path: str = super().getBlobFilename(oid, tid)
        return path


def prepare(storage: Any, helper: Any) -> None:
    """Give `storage`, or that which it is around, an `UndoHelper` for its `helper`, if that is ZODB's."""
    while type(helper) is FilesystemHelper and hasattr(storage, '__dict__'):
        if hasattr(type(storage), 'fshelper'):  # it makes up one itself
            break
        if vars(storage).get('fshelper') is helper:
            storage.fshelper = UndoHelper(helper)
            break
        parts = vars(storage).values()
        storage = next((part for part in parts if getattr(part, 'fshelper', None) is helper), None)


def left_of_undos(runtime: Runtime, parent: str) -> list[str]:
    """The directories in `parent` of undos that were cut short."""
    paths = [os.path.join(parent, name) for name in sorted(runtime.listdir(parent)) if _NAME.fullmatch(name)]
    return [path for path in paths if stat.S_ISDIR(runtime.lstat(path).st_mode)]  # and no link to another


def remove(runtime: Runtime, path: str) -> None:
    """Remove the directory of an undo.  Raises OSError."""
    for name in runtime.listdir(path):
        runtime.remove(os.path.join(path, name))
    runtime.rmdir(path)
