"""A pack whose long part another process does: finding what is reachable, and copying it.

In one process a pack shares the interpreter's lock with all loads: they would wait for each of its steps.

    the server                                       the other process
    call: the file's end  -------------------------> finds what is reachable up to there
                                                     copies that, and what came after the pack's time
    "up to here"          <------------------------- waits
    the file's end, if it is far from here by now -> copies on ...
    "that is all"         -------------------------> writes its index, and ends
    takes the commit lock, copies the rest, and
    hands the new file over, as ZODB's packer does

In: what FileStorage gives a packer.  Out: what it wants of one; or an exception, and then the old file is as
it was.  Until FileStorage renames the new file, nothing but ``Data.fs.pack``, ``Data.fs.packindex`` and the
list of removed blobs is written.  Whichever of the two processes is killed, the other one's part ends too.

The server makes these three files, each time anew, and the other process writes into them without asking for
their names: where it hears late that its server is gone, it does not touch what the next server packs.
"""
from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import re
import subprocess
import sys
from collections.abc import Generator
from typing import IO, Any

from ZODB.blob import is_blob_record
from ZODB.FileStorage.FileStorage import FileStorage, RedundantPackWarning
from ZODB.FileStorage.fspack import FileStoragePacker, PackCopier, PackError
from ZODB.fsIndex import fsIndex
from ZODB.POSException import StorageError

from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.references import UnreadableRecord, references

log = logging.getLogger(__name__)

#: A smaller file is packed where it is: a process takes longer to start, in bytes.
SMALL = 4 << 20
#: An interpreter: an application server that has one in it, uWSGI for instance, starts something else.
_PYTHON = re.compile(r'.*\b(python|pypy)[\d.t]*(\.exe)?$')
#: The other process copies on if so much was written meanwhile, in bytes, and so often at most.
REST, ROUNDS = 1 << 20, 20
#: Loads come first: the other process is nicer by so much.
NICE = 5

#: What the other process runs.  It finds the modules where this one does.
PROGRAM = ('import json, sys; call = json.loads(sys.stdin.readline()); sys.path[:] = call.pop("sys_path"); '
           'from zeo_clone.configuration.packer import main; main(call)')


def pack(storage: Any, referencesf: Any, stop: bytes, gc: bool) -> tuple[int, Any] | None:
    """A packer for a FileStorage: the size and the index of the new file, with the commit lock; None if there
    is nothing to pack."""
    # A storage around the file reads records in a way of its own, which no other process knows.
    is_ours = referencesf is references
    path = storage.getName() + '.pack'
    if not is_ours or storage.getSize() < SMALL or _PYTHON.match(sys.executable or '') is None:
        _remove(path)
        return FileStorage.packer(storage, referencesf, stop, gc)  # type: ignore[no-any-return]
    try:
        try:
            helper = Helper(storage, stop, gc)
        except NoProcess as error:
            log.warning('no process can be started for the pack, which is done in this one: %s', error)
            return FileStorage.packer(storage, referencesf, stop, gc)  # type: ignore[no-any-return]
        with helper:
            reached = helper.run()
            if reached is None:
                _remove(path)
                return None
            index = helper.index()
        # Most of it is on the disk by now; what is not delays no commit yet.
        REAL.sync_file(path)
        return Rest(storage, path, index).copy(reached)
    except BaseException:
        _remove(path)
        raise
    finally:
        _remove(storage.getName() + '.packindex')


class NoProcess(Exception):
    """None can be started."""


def _new(path: str) -> IO[bytes]:
    """A new file, whatever was there."""
    _remove(path)
    return open(path, 'x+b')


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)


class Helper:
    """The other process, seen from the server."""

    def __init__(self, storage: Any, stop: bytes, gc: bool) -> None:
        self._storage = storage
        self._index_path = storage.getName() + '.packindex'
        paths = [f'{storage.getName()}.pack', self._index_path]
        if storage.blob_dir:
            paths.append(os.path.join(storage.blob_dir, '.removed'))
        with contextlib.ExitStack() as files:
            fds = [files.enter_context(_new(path)).fileno() for path in paths]
            try:
                self._process = subprocess.Popen(
                    [sys.executable, '-c', PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    start_new_session=True, pass_fds=fds)
            except OSError as error:
                raise NoProcess(error) from error
        self._say({'sys_path': sys.path, 'path': storage.getName(), 'files': fds,
                   'stop': stop.hex(), 'gc': gc, 'end': storage.getSize()})

    def __enter__(self) -> Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with contextlib.suppress(OSError):  # what it has not taken any more
            self._process.__exit__(None, None, None)

    def run(self) -> int | None:
        """How far the file has been copied; None if there is nothing to pack.  Raises what the other process
        met."""
        for _ in range(ROUNDS):
            reached = self._hear()
            if reached is None:
                return None
            end = self._storage.getSize()
            if end - reached < REST:
                break
            self._say(end)
        else:
            reached = self._hear()  # of the last round
        self._say(None)
        self._hear()  # the index is there
        return reached

    def index(self) -> Any:
        """Where each object is in the copy."""
        return fsIndex.load(self._index_path)['index']

    def _say(self, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_hear` tells
            self._process.stdin.write(json.dumps(value).encode() + b'\n')  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]

    def _hear(self) -> int | None:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line.endswith(b'\n'):
            raise StorageError(f'nothing was packed: the process that does it has ended with exit code '
                               f'{self._process.wait()}; what it said is on stderr of the server')
        kind, value = json.loads(line)
        if kind == 'reached':
            return value  # type: ignore[no-any-return]
        if kind == 'redundant':
            raise RedundantPackWarning(value)
        if kind == 'unreadable':
            raise UnreadableRecord(value[0], bytes.fromhex(value[1]))
        if kind == 'overtaken':
            raise PackError(value)
        if kind == 'os':
            raise OSError(*value)
        raise StorageError(f'nothing was packed: {value}')


class Rest(FileStoragePacker):  # type: ignore[misc]
    """The part of a pack that the server does itself: it appends to `path` what was committed meanwhile."""

    def __init__(self, storage: Any, path: str, index: Any) -> None:
        self._storage = storage
        self._lock, self._commit_lock = storage._lock, storage._commit_lock
        self.locked = False
        self.index = index
        self.tindex: dict[bytes, int] = {}
        self._path = path

    def copy(self, reached: int) -> tuple[int, Any]:
        """Copy all from `reached` on: the size and the index of the new file, with the commit lock."""
        self._commit_lock.acquire()
        self.locked = True
        try:
            # Without a buffer: what was read ahead would be of before.
            with open(self._storage.getName(), 'rb', 0) as self._file, open(self._path, 'r+b') as self._tfile:
                self._tfile.seek(0, os.SEEK_END)
                self._copier = PackCopier(self._tfile, self.index, self.tindex)
                # Whoever has the lock sees whole transactions only; it is free while one is copied.
                while reached < self._storage.getSize():
                    reached = self.copyOne(reached)
                return self._tfile.tell(), self.index
        except BaseException:
            if self.locked:
                self._commit_lock.release()
            raise


# ---- the other process ----------------------------------------------------------------------------

class File:
    """Stands for the storage: a file up to `end`, of which nobody else writes that part."""

    blob_dir = None  # `Long` has the file for what is removed

    def __init__(self, path: str, end: int) -> None:
        self._file = self
        self.name = path
        self.end = end
        self._lock = self._commit_lock = REAL.rlock()

    def getSize(self) -> int:
        """Up to where it is read."""
        return self.end

    is_blob_record = staticmethod(is_blob_record)


class Long(FileStoragePacker):  # type: ignore[misc]
    """The part of a pack that takes long; it runs in a process of its own.

    `fds`: of the files that it writes, the new file, its index, and the list of removed blobs if there are
    any.
    """

    _file: IO[bytes]

    def __init__(self, storage: File, fds: list[int], stop: bytes, gc: bool) -> None:
        super().__init__(storage, references, stop, gc)
        self._copy_fd, self.index_fd, *rest = fds
        if rest:
            self.pack_blobs, self.blob_removed = True, open(rest[0], 'wb')

    def copy(self) -> Generator[int, None, None]:
        """Up to the end of the file: how far that was, again each time.  Nothing if nothing is to be packed.
        """
        with self._file, contextlib.ExitStack() as files:
            if self.blob_removed is not None:
                files.enter_context(self.blob_removed)
            self.gc.findReachable()
            self._tfile = files.enter_context(open(self._copy_fd, 'w+b'))
            self._file.seek(0)
            self._tfile.write(self._file.read(self._metadata_size))
            self._copier = PackCopier(self._tfile, self.index, self.tindex)
            reached, copied = self.copyToPacktime()
            if reached == copied:
                return
            self._commit_lock.acquire()  # which nobody else wants: `copyOne` lets go of it meanwhile
            while True:
                with open(self._path, 'rb') as self._file:  # anew: what was read ahead would be of before
                    while reached < self._storage.getSize():
                        reached = self.copyOne(reached)
                self._tfile.flush()
                yield reached


def main(call: dict[str, Any]) -> None:
    """Do what the server's process says on stdin, and tell on stdout."""
    lines = os.fdopen(os.dup(1), 'w', encoding='ascii')
    os.dup2(2, 1)  # whatever else is printed

    def tell(kind: str, value: object) -> None:
        lines.write(json.dumps([kind, value]) + '\n')
        lines.flush()

    ends = REAL.event()
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def hear() -> None:
        for line in sys.stdin:
            answers.put(json.loads(line))
        if not ends.is_set():
            os._exit(1)  # the server has gone

    REAL.start_thread(hear, 'zeo_clone pack')
    os.nice(NICE)
    file = File(call['path'], call['end'])
    try:
        packer = Long(file, call['files'], bytes.fromhex(call['stop']), call['gc'])
        copying = packer.copy()
        reached = next(copying, None)
        while reached is not None:
            tell('reached', reached)
            end = answers.get()
            if end is None:
                packer.index.save(reached, packer.index_fd)
                break
            file.end = end
            reached = next(copying)
        copying.close()
        ends.set()
        tell('reached', reached)
    except RedundantPackWarning as warning:
        tell('redundant', str(warning))
    except UnreadableRecord as error:
        tell('unreadable', (error.why, error.record.hex()))
    except PackError as error:
        tell('overtaken', str(error))
    except OSError as error:
        tell('os', (error.errno, error.strerror, error.filename))
    except Exception as error:
        log.exception('the pack has failed')
        tell('error', f'{type(error).__name__}: {error}')
