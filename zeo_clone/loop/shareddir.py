"""A directory that several processes use, perhaps in containers of their own, or of several users.

Locks between processes by locked files; names for temporary files that nobody else makes, and what is left
of those whose makers have gone; moves from elsewhere; permissions as the directory's.  Names are random:
containers have the same process ids, and hosts share directories.  Whether a maker lives shows by a lock,
else by age.

Any thread; a lock is held by one thread of one process.  The kernel releases it when its process dies.
"""
from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator

from zeo_clone.loop.runtime import Runtime

#: A temporary file of ours: 96 random bits, and its kind.
_NAME = re.compile(r'zeo-[0-9a-f]{24}\.[a-z]+')
#: Those of older versions, of clients (process id and number) and of servers.
_OLD_NAME = re.compile(r'zeo-(\d+-\d+\.part|\w{8}\.upload)', re.ASCII)
#: Where a lock does not tell, a file that was not touched for so long is nobody's, in seconds.
LEFT_OVER_AGE_S = 86_400.0


# ---- permissions ----------------------------------------------------------------------------------

def share(runtime: Runtime, path: str, bits: int) -> None:
    """Who may write in the directory of `path`, its group or everybody, gets the permissions `bits` for
    `path`, too, whatever the umask.  Nothing if `path` belongs to another user."""
    parent, mine = (stat.S_IMODE(runtime.stat(one).st_mode) for one in (os.path.dirname(path), path))
    whom = (stat.S_IRWXG if parent & stat.S_IWGRP else 0) | (stat.S_IRWXO if parent & stat.S_IWOTH else 0)
    wanted = mine | whom & bits
    if wanted != mine:
        with contextlib.suppress(PermissionError):
            runtime.chmod(path, wanted)


def make_directory(runtime: Runtime, path: str) -> None:
    """Make `path` and what is missing above it, for all who may write above."""
    try:
        runtime.mkdir(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directory(runtime, os.path.dirname(path))
        make_directory(runtime, path)
        return
    share(runtime, path, 0o777)


# ---- moving ---------------------------------------------------------------------------------------

def move(runtime: Runtime, source: str, path: str) -> None:
    """Move a file, from another file system if need be."""
    try:
        runtime.rename(source, path)
    except OSError:
        runtime.copy(source, path)
        runtime.remove(source)


# ---- locks ----------------------------------------------------------------------------------------

@contextlib.contextmanager
def locked(runtime: Runtime, path: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` for a while; with `wait` false yields False if somebody else has it.

    It is removed by who held it last.
    """
    fd = _lock(runtime, path, wait)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            try:
                with contextlib.suppress(OSError):
                    runtime.remove(path)  # while it is locked: who waits for it will see that it has gone
            finally:
                runtime.close_fd(fd)


def _lock(runtime: Runtime, path: str, wait: bool) -> int | None:
    while True:
        fd = runtime.open_to_lock(path)
        try:
            mine = runtime.flock(fd, wait=wait)
            if mine and _is_at(runtime, fd, path):
                share(runtime, path, 0o666)
                return fd
        except BaseException:
            runtime.close_fd(fd)
            raise
        runtime.close_fd(fd)  # its last holder has removed it: lock the new one
        if not mine:
            return None


def _is_at(runtime: Runtime, fd: int, path: str) -> bool:
    try:
        return os.path.samestat(runtime.fstat(fd), runtime.stat(path))
    except FileNotFoundError:
        return False


# ---- temporary files ------------------------------------------------------------------------------

class Scratch:
    """Temporary files of one owner in `directory`.

    As long as there are any, the owner holds a shared lock on the directory itself, by which others know
    that they are not left over.
    """

    def __init__(self, runtime: Runtime, directory: str) -> None:
        self.directory = directory
        self._runtime = runtime
        self._lock = runtime.lock()  # protects _names and _held
        self._names: set[str] = set()
        self._held: int | None = None  # a descriptor of the directory, locked

    def __repr__(self) -> str:
        return f'<Scratch {self.directory}, {len(self._names)} files>'

    def take(self, kind: str) -> str:
        """The path for a new file, to be given back.  Raises ``OSError``."""
        path = os.path.join(self.directory, f'zeo-{self._runtime.randbytes(12).hex()}.{kind}')
        with self._lock:
            if self._held is None:
                self._held = self._hold()
            self._names.add(path)
        return path

    def give_back(self, path: str) -> None:
        """Remove the file, unless somebody has taken it over.  May be called twice."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._runtime.remove(path)
        finally:
            with self._lock:
                self._names.discard(path)
                if not self._names:
                    self._let_go()

    def forsake(self) -> None:
        """Forget files and lock in a process that was forked: they stay its parent's."""
        self._names = set()
        self._let_go()

    def _hold(self) -> int | None:
        fd = self._runtime.open_directory(self.directory)
        try:
            self._runtime.flock(fd, shared=True)
        except BaseException as error:
            self._runtime.close_fd(fd)
            if isinstance(error, OSError):  # a file system without locks: there, age tells
                return None
            raise
        return fd

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._runtime.close_fd(held)


@contextlib.contextmanager
def left_over(runtime: Runtime, directory: str, others: re.Pattern[str] = _OLD_NAME) -> Iterator[list[str]]:
    """The paths of temporary files in `directory` whose makers have gone; nobody makes new ones meanwhile.

    Of those of `others`, which take no lock, age tells.
    """
    fd = runtime.open_directory(directory)
    try:
        try:
            alone = runtime.flock(fd, wait=False)
        except OSError:
            alone = False
        yield [path for name in sorted(runtime.listdir(directory))
               for path in (os.path.join(directory, name),)
               if alone and _NAME.fullmatch(name) or _is_old(runtime, path, others)]
    finally:
        runtime.close_fd(fd)


def _is_old(runtime: Runtime, path: str, others: re.Pattern[str]) -> bool:
    name = os.path.basename(path)
    if not any(pattern.fullmatch(name) for pattern in (_NAME, _OLD_NAME, others)):
        return False
    with contextlib.suppress(FileNotFoundError):
        return runtime.lstat(path).st_mtime < runtime.time() - LEFT_OVER_AGE_S
    return False
