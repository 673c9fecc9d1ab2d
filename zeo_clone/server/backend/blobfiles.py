"""The blob directory of a served storage: temporary files, what is on the disk, and what was left behind.

In: paths of files that clients have sent, and the oids that a transaction gave blobs.  Out: what is to be
synced so that a loss of power takes nothing of that any more (B11).  The storage itself moves a file to its
name while the transaction is carried out; it syncs nothing, so it is done here, before the vote is answered.
Syncs are few, since each of them may take as long as a turn of the disk: a file that was moved is on the disk
already, and of the directories above it those are synced whose names were not seen to before.

What a killed server has left is cleared at start (B12): uploads, and files that have got their names although
their transaction was never finished, or a loss of power took it.  Of these there is a note until the
transaction is on the disk, a symbolic link ``inode:path``: where the file was, or will be.  A pack that was
killed when its new file was in place, or met a full disk then, has left the files of what it removed, and
their list; that is cleared before the next pack, too.  An undo copies into a directory of its own.

`sync` and `finish_pack` belong to worker threads, the rest to the loop thread.
"""
from __future__ import annotations

import binascii
import contextlib
import errno
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import IO, Any, NamedTuple

from ZODB.blob import BLOB_SUFFIX, LAYOUT_MARKER
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid

from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.shareddir import Scratch, left_over, make_directory
from zeo_clone.server.backend import undoing
from zeo_clone.server.backend.abilities import Abilities

log = logging.getLogger(__name__)

#: Names that clients make up in a shared blob directory (B5): random ones of our client, the temporary names
#: of ZODB, to which ZEO adds a "-", and those of older clients of ours, with a process id and a number.
SHARED_NAME = re.compile(r'0x[0-9a-f]{2,16}(\w{8}\.tmp-?|-\d{1,10}-\d{1,20}\.tmp)', re.ASCII)
#: What ZODB names the copies that an undo makes, as ``tempfile``.  Of older versions they are here.
COPY_NAME = re.compile('tmp[a-z0-9_]{8}')
#: The list of blobs, in the blob directory, that a pack removes when its new file is in place.
REMOVED = '.removed'
#: Directories that are remembered as being on the disk; at more, all are forgotten.
MAX_SAFE = 10_000


class Plan(NamedTuple):
    """What is to be synced: `files`, then `directories`; with the latter also the `names` of those among them
    that may be new.  `missing` are oids whose files have no names yet."""

    files: list[str]
    directories: list[str]
    names: list[str]
    missing: list[bytes]


class BlobFiles:
    """The blob files of `storage`, which need not have blobs."""

    def __init__(self, runtime: Runtime, storage: Any, abilities: Abilities) -> None:
        self.runtime = runtime
        self._storage = storage
        self._abilities = abilities
        self._safe: set[str] = set()  # directories whose names are on the disk, and those of all above them
        self._packs = 0  # that are under way: they remove directories
        self._notes: deque[tuple[bytes, list[str]]] = deque()  # of transactions that are not on the disk yet
        self._scratches: dict[str, Scratch] = {}  # by directory; a DemoStorage makes its own when it needs it
        if self.helper is not None and not storage.isReadOnly():
            undoing.prepare(storage, self.helper)
            self._sync_base(self.helper.base_dir)
            self._clear_up(self.helper)

    def __repr__(self) -> str:
        return f'<BlobFiles {self._scratches}>'

    @property
    def has_blobs(self) -> bool:
        """Does the storage take blobs?"""
        return self._abilities.has_blobs

    @property
    def helper(self) -> Any:
        """What knows where blobs are; None if that is not in a directory of the storage's own."""
        return self._abilities.blob_helper

    # ---- temporary files --------------------------------------------------------------------------

    def create(self) -> tuple[str, IO[bytes]]:
        """A new temporary file, to be dropped.  Raises OSError."""
        directory = self._storage.temporaryDirectory()
        try:
            path = self._take(directory, 'upload')
            try:
                return path, self.runtime.create(path)
            except BaseException:
                self.drop(path)
                raise
        except OSError as error:
            raise no_room(error, directory) from error

    def drop(self, path: str) -> None:
        """Remove a temporary file, or a note, if it is still there.  Never raises OSError."""
        scratch = self._scratches.get(os.path.dirname(path))
        try:
            if scratch is not None:
                scratch.give_back(path)
            else:  # in a shared directory
                with contextlib.suppress(FileNotFoundError):
                    self.runtime.remove(path)
        except OSError as error:
            log.warning('%s cannot be removed: %s', path, error)

    def note(self, path: str, oid: bytes | None = None) -> list[str]:
        """Note a file for the case that we are killed: it is in a shared directory, or is about to get a name
        of `oid`.  The note is to be dropped; empty where there cannot be one."""
        helper = self.helper
        if helper is None:
            return []
        place = path if oid is None else helper.getPathForOID(oid)
        directory = helper.common_dir if isinstance(helper, undoing.UndoHelper) else helper.temp_dir
        note = self._take(directory, 'note')
        try:
            self.runtime.symlink(f'{self.inode(path)}:{os.path.relpath(place, helper.base_dir)}', note)
        except OSError as error:  # a file system without symbolic links, for one
            log.debug('no note of %s: %s', path, error)
        except BaseException:
            self.drop(note)
            raise
        return [note]

    @contextlib.contextmanager
    def undoing(self, notes: list[str]) -> Iterator[None]:
        """The storage undoes: what it copies is noted in `notes`, and what has got no name is removed."""
        helper = self.helper
        if not isinstance(helper, undoing.UndoHelper):
            yield
            return
        undo = undoing.Undo(self.runtime, helper.common_dir,
                            lambda path, oid: notes.extend(self.note(path, oid)))
        helper.undo = undo
        try:
            yield
        finally:
            helper.undo = None
            try:
                undo.end()
            except OSError as error:
                log.warning('%s cannot be removed: %s', undo.path, error)

    def take_back(self, note: str) -> None:
        """The transaction was given up: drop the note, and what it is of, which a FileStorage removes only
        after a vote."""
        try:
            self._clear_file(self.helper, note)
        except Exception as error:  # of the storage, too
            log.warning('the file of %s cannot be removed: %s', note, error)
        self.drop(note)

    def keep_notes(self, tid: bytes, notes: list[str]) -> None:
        """Transaction `tid` is finished, but not on the disk: its notes stay until `drop_notes`."""
        self._notes.append((tid, notes))

    def drop_notes(self, tid: bytes) -> None:
        """All up to transaction `tid` is on the disk."""
        while self._notes and self._notes[0][0] <= tid:
            for note in self._notes.popleft()[1]:
                self.drop(note)

    def close(self) -> None:
        """At the end: notes of transactions that a failed sync has left in doubt are for the next start."""
        for scratch in self._scratches.values():
            scratch.forsake()

    def _take(self, directory: str, kind: str) -> str:
        scratch = self._scratches.get(directory)
        if scratch is None:
            scratch = self._scratches.setdefault(directory, Scratch(self.runtime, directory))
        return scratch.take(kind)

    # ---- what is on the disk ----------------------------------------------------------------------

    def inode(self, path: str) -> int:
        """The number by which a file is known again after it was moved."""
        return self.runtime.lstat(path).st_ino

    def expect(self, path: str, oid: bytes) -> None:
        """The storage is about to give `path` a name of `oid`; it makes the directories that are missing.

        If others than the storage may have made some, none is known.
        """
        helper = self.helper
        if helper is not None:
            known = not (self._packs or os.path.dirname(path) == helper.getPathForOID(oid))
            for directory in _up_to_base(helper, oid):
                if known and self.runtime.is_directory(directory):
                    break
                self._safe.discard(directory)

    def pack_begins(self) -> None:
        """A pack begins: directories may go, and be made again."""
        self._packs += 1

    def pack_ends(self) -> None:
        """The pack has ended."""
        self._packs -= 1
        self._safe.clear()

    def plan(self, moved: Mapping[bytes, int | None], copied: Iterable[bytes], tid: bytes | None) -> Plan:
        """What to sync when the storage has voted.

        `moved` are oids that were expected, with the inode of what is on the disk already, if it is; `copied`
        are others that may have got files from the storage itself.
        """
        files: list[str] = []
        directories: dict[str, None] = {}
        names: dict[str, None] = {}
        missing: list[bytes] = []
        helper = self.helper
        for oid in dict.fromkeys((*moved, *copied)) if helper is not None else ():
            path = None if tid is None else helper.getBlobFilename(oid, tid)
            if path is None or not self.runtime.exists(path):
                if path is None or oid in moved:
                    missing.append(oid)
            elif self.inode(path) != moved.get(oid):
                files.append(path)
            for directory in _up_to_base(helper, oid):
                if not self.runtime.is_directory(directory):
                    break  # there was nothing to copy
                directories[directory] = None
                if directory in self._safe and oid in moved:
                    break
                names[directory] = None
        return Plan(files, list(directories), list(names), missing)

    def sync(self, files: Iterable[str], directories: Iterable[str] = ()) -> None:
        """Worker thread: bring files, and the names in directories, to the disk.  Raises OSError."""
        path = ''
        try:
            for path in files:
                self.runtime.sync_file(path)
            for path in directories:
                self.runtime.sync_directory(path)
        except OSError as error:
            raise no_room(error, os.path.dirname(path)) from error

    def synced(self, plan: Plan) -> None:
        """`sync` has done it, and the storage is still in the transaction."""
        if len(self._safe) > MAX_SAFE:
            self._safe.clear()
        if not self._packs:
            self._safe.update(plan.names)

    # ---- at start ---------------------------------------------------------------------------------

    def _sync_base(self, base: str) -> None:
        """The directory itself may be new, and without the name of its layout nothing is found in it."""
        try:
            self.runtime.sync_file(os.path.join(base, LAYOUT_MARKER))
            for directory in _upwards(os.path.normpath(base)):
                with contextlib.suppress(PermissionError):  # one that was there before us
                    self.runtime.sync_directory(directory)
        except OSError as error:
            log.warning('the blob directory %s cannot be synced: %s', base, error)

    def _clear_up(self, helper: Any) -> None:
        with left_over(self.runtime, helper.temp_dir, COPY_NAME) as paths:
            for path in paths:
                self._clear(path, partial(self._clear_file, helper, path))
        for path in undoing.left_of_undos(self.runtime, helper.temp_dir):
            self._clear(path, partial(undoing.remove, self.runtime, path))
        self._finish_pack(helper, self._put_away, maxtid)

    @staticmethod
    def _clear(path: str, remove: Callable[[], object]) -> None:
        try:
            remove()
        except Exception as error:  # of the storage, too: it will not keep the server from starting
            log.warning('%s, left of a transaction, cannot be cleared: %s', path, error)
        else:
            log.info('removed %s, which was left of a transaction', path)

    def _clear_file(self, helper: Any, path: str) -> None:
        if path.endswith('.note'):
            inode, _, place = self.runtime.readlink(path).partition(':')
            place = os.path.normpath(os.path.join(helper.base_dir, place))
            if place.startswith(helper.base_dir) and inode.isdecimal():
                if SHARED_NAME.fullmatch(os.path.basename(place)):
                    self._clear_shared(place, int(inode))
                    place = os.path.dirname(place)
                self._clear_unfinished(helper, place, int(inode))
        self.runtime.remove(path)

    def _clear_shared(self, path: str, inode: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.runtime.lstat(path).st_ino == inode:
                self.runtime.remove(path)

    def _clear_unfinished(self, helper: Any, directory: str, inode: int) -> None:
        """The file has the name of a revision.  Is there such a revision?"""
        try:
            names = self.runtime.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            path = os.path.join(directory, name)
            if (name.endswith(BLOB_SUFFIX) and self.runtime.lstat(path).st_ino == inode
                    and not self._has(*helper.splitBlobFilename(path))):
                self.runtime.remove(path)

    def finish_pack(self) -> None:
        """Before a pack: clear what the one before has left, if it was cut short.

        What was put away goes anyway then.  Later files than of the last transaction are of one under way.
        Where others write, it is their pack, and not cut short.
        """
        if self.helper is not None and not self._storage.isReadOnly():
            self._finish_pack(self.helper, self.runtime.remove, self._storage.lastTransaction())

    def _finish_pack(self, helper: Any, put_away: Callable[[str], object], last: bytes) -> None:
        file, exists = self._abilities.file, self.runtime.exists
        removed = os.path.join(helper.base_dir, REMOVED)
        if file is not None and exists(removed) and exists(f'{file}.old') and not exists(f'{file}.pack'):
            try:
                self._clear_removed(helper, removed, put_away, last)
            except Exception as error:
                log.warning('the blobs that a pack of %s has removed cannot be cleared: %s', file, error)

    def _clear_removed(self, helper: Any, path: str, put_away: Callable[[str], object],
                       last: bytes) -> None:
        """Do what the list of removed blobs at `path` says, as far as the storage has no such revision, up to
        the transaction `last`."""
        with self.runtime.open(path, 'rb') as file:
            removed = [binascii.unhexlify(line.strip()) for line in file]
        for key in removed:  # an oid, or an oid and a tid
            directory = helper.getPathForOID(key[:8])
            for name in self.runtime.listdir(directory) if self.runtime.is_directory(directory) else ():
                if name.endswith(BLOB_SUFFIX):
                    oid, tid = helper.splitBlobFilename(os.path.join(directory, name))
                    if tid <= last and tid.startswith(key[8:]) and not self._has(oid, tid):
                        put_away(os.path.join(directory, name))
        self.runtime.remove(path)
        log.info('a pack was cut short: what it has removed of blobs has been cleared (%d)', len(removed))

    def _put_away(self, path: str) -> None:
        helper = self.helper
        if not getattr(self._storage, 'pack_keep_old', True):
            self.runtime.remove(path)
            return
        old = os.path.normpath(helper.base_dir) + '.old'
        place = os.path.join(old, os.path.relpath(path, helper.base_dir))
        make_directory(self.runtime, os.path.dirname(place))
        if not self.runtime.exists(os.path.join(old, LAYOUT_MARKER)):
            self.runtime.copy(os.path.join(helper.base_dir, LAYOUT_MARKER), os.path.join(old, LAYOUT_MARKER))
        self.runtime.rename(path, place)

    def _has(self, oid: bytes, tid: bytes) -> bool:
        try:
            self._storage.loadSerial(oid, tid)
        except POSKeyError:
            return False
        return True


def _upwards(directory: str) -> Iterator[str]:
    """`directory`, and those above it."""
    while directory not in ('', '.', os.path.dirname(directory)):
        yield directory
        directory = os.path.dirname(directory)
    yield directory or '.'


def _up_to_base(helper: Any, oid: bytes) -> Iterator[str]:
    """The directory of an oid's files, and those above it, up to the blob directory."""
    directory = helper.getPathForOID(oid)
    while len(directory) >= len(helper.base_dir) - 1:
        yield directory
        directory = os.path.dirname(directory)


def no_room(error: OSError, directory: str) -> OSError:
    """`error` of a file in `directory`, for the client."""
    return OSError(error.errno or errno.EIO,
                   f'the server cannot keep a blob in {directory}: {error.strerror}')
