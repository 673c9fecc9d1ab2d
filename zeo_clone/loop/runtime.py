"""The runtime seam: the one place where the product touches the outside world.

Clock, threads, locks, sockets, name resolution, files and random numbers are reached through a
`Runtime` object that loop, client, server and cache are given when they are made.  `REAL` is the real
one and the default everywhere.  A replacement with the same attributes can run client, server and the
network between them deterministically, under a virtual clock and with seeded faults.

No other module imports ``time``, ``socket``, ``select``, ``selectors``, ``threading`` or ``random``;
a test reads the imports.
"""
from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import hashlib
import mmap
import os
import random
import resource
import select
import selectors
import shutil
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import zc.lockfile

try:
    import _imp
except ImportError:  # a Python of another kind
    _imp = None  # type: ignore[assignment]

try:
    import ctypes
except ImportError:  # a Python that was built without
    ctypes = None  # type: ignore[assignment]

#: Connections that wait to be accepted, at most.
BACKLOG = 1024
#: Errors of ``connect`` on a non-blocking socket that mean "under way".
IN_PROGRESS = frozenset({errno.EINPROGRESS, errno.EAGAIN, errno.EALREADY})
AF_UNIX: int | None = getattr(socket, 'AF_UNIX', None)
AF_INET, AF_INET6 = int(socket.AF_INET), int(socket.AF_INET6)
Socket = socket.socket
#: Errors of ``fsync`` on a directory that mean: this file system does not do that.
NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
#: The system takes no longer time-outs than 24 days, in seconds.  Who has waited in vain waits again.
LONGEST_WAIT_S = 2e6
#: Longer than a load or a small commit takes a server, and about as long as waking a virtual processor.
EAGER_S = 5e-4
#: Linux's madvise: in a process that is forked from this one the memory is zeros.
WIPE_ON_FORK = 18
#: Linux's madvise, from 5.14 on: pages that will be written are provided at once, not one fault at a time.
POPULATE_WRITE = 23
#: Linux's struct ucred: process, user and group id.
PEERCRED = struct.Struct('3i')
assert PEERCRED.size == 12
#: TCP's own heartbeat, as far as the system lets us choose: probes after 10 s of silence, every 10 s; the
#: connection breaks after 30 s without an answer, to a probe or to data.
KEEP_ALIVE = tuple((getattr(socket, name), value) for name, value in (
    ('TCP_KEEPIDLE', 10), ('TCP_KEEPINTVL', 10), ('TCP_KEEPCNT', 2), ('TCP_USER_TIMEOUT', 30_000))
    if hasattr(socket, name))


class Endpoint(NamedTuple):
    """One resolved place to connect to or to listen at: ``socket`` family and address."""

    family: int
    sockaddr: Any

    def __str__(self) -> str:
        if isinstance(self.sockaddr, tuple):
            host, port = self.sockaddr[:2]
            return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
        return str(self.sockaddr)


def _take_import_lock() -> bool:
    """From Python 3.13 on the end of a fork releases the lock of imports, which its beginning took."""
    if sys.version_info >= (3, 13) and _imp is not None:
        if _imp.lock_held():
            return False  # by a thread that is perhaps not in this process
        _imp.acquire_lock()
    return True


def _addresses(host: str | None, port: int, flags: int) -> list[Endpoint]:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys(Endpoint(int(family), addr) for family, _, _, _, addr in found))


def usable_processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessMark:
    """What `Runtime.home` is where memory cannot be had that a fork wipes."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int) -> bool:
        return os.getpid() == self._pid


_Open = Callable[[str, str], IO[bytes]]


def _memory_limits(open_file: _Open) -> Iterator[int]:
    """The limits that the machine and the control groups of the process set, as far as they set one."""
    with contextlib.suppress(OSError, ValueError):
        yield os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for root, name, path in _memory_groups(open_file):
        while True:
            with contextlib.suppress(OSError, ValueError), open_file(f'{root}{path}/{name}', 'rb') as file:
                yield int(file.read())
            if path in ('', '/'):
                break
            path = os.path.dirname(path)


def _memory_groups(open_file: _Open) -> Iterator[tuple[str, str, str]]:
    """Root, file and path of the control group for memory, in the second and the first form of these."""
    with contextlib.suppress(OSError), open_file('/proc/self/cgroup', 'rb') as file:
        for line in file:
            _, controllers, path = os.fsdecode(line).rstrip('\n').split(':', 2)
            if not controllers:
                yield '/sys/fs/cgroup', 'memory.max', path
            elif 'memory' in controllers.split(','):
                yield '/sys/fs/cgroup/memory', 'memory.limit_in_bytes', path


class Runtime:
    """The real clock, threads, network, files and random numbers.  Stateless; any thread."""

    # -- clock: seconds; deadlines use `monotonic`, never the wall clock ------------------------
    monotonic = staticmethod(time.monotonic)
    time = staticmethod(time.time)

    # -- threads and locks ----------------------------------------------------------------------
    lock = staticmethod(threading.Lock)
    rlock = staticmethod(threading.RLock)
    condition = staticmethod(threading.Condition)
    event = staticmethod(threading.Event)
    get_ident = staticmethod(threading.get_ident)

    def start_thread(self, target: Callable[[], object], name: str, *,
                     daemon: bool = True) -> threading.Thread:
        """Start and return a thread that runs `target`."""
        thread = threading.Thread(target=target, name=name, daemon=daemon)
        thread.start()
        return thread

    getpid = staticmethod(os.getpid)

    #: ``at_fork(before=, after_in_parent=, after_in_child=)``: what is called at a fork by Python.
    at_fork = staticmethod(os.register_at_fork)

    def at_exit(self, function: Callable[[], object]) -> None:
        """Have `function` called at the end of the process."""
        atexit.register(function)

    def home(self) -> Any:
        """A mark: item 0 is true in this process, and false in those that were forked from it, by whomever.

        To look at it takes a tenth of the time of `getpid`, which is a system call.
        """
        if sys.platform == 'linux':
            mark = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            try:
                mark.madvise(WIPE_ON_FORK)
                mark[0] = 1
                return mark
            except (OSError, ValueError):
                mark.close()  # an old kernel
        return ProcessMark()

    def finish_fork(self) -> None:
        """Have Python do what it does after a fork of its own, in a process that a program in C has forked.

        Without that, a thread that waited for the interpreter in the parent is waited for here.  With other
        threads it is too late: nothing is done then, nor if the program forked amid an import.
        """
        try:
            alone = len(self.listdir('/proc/self/task')) == 1
        except OSError:
            alone = False
        finish = getattr(getattr(ctypes, 'pythonapi', None), 'PyOS_AfterFork_Child', None)
        if alone and finish is not None and _take_import_lock():
            finish()

    # -- network --------------------------------------------------------------------------------
    epoll = getattr(select, 'epoll', None)
    selector = selectors.DefaultSelector
    socketpair = staticmethod(socket.socketpair)
    SHUT_RDWR = socket.SHUT_RDWR

    def resolve(self, host: str | None, port: int, *, passive: bool = False) -> list[Endpoint]:
        """All addresses of `host` for TCP, in the order to try them.  Raises ``OSError``."""
        return _addresses(host, port, socket.AI_PASSIVE if passive else 0)

    def in_numbers(self, host: str | None, port: int) -> list[Endpoint]:
        """`resolve` where no name server has to be asked; empty if `host` is a name.  Does not block."""
        try:
            return _addresses(host, port, socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            return []

    def socket(self, family: int) -> Socket:
        """A new non-blocking stream socket; without Nagle's delay where that exists."""
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        if family in (AF_INET, AF_INET6):
            self.tune(sock)
        return sock

    def tune(self, sock: Socket) -> None:
        """Set the options of an established TCP connection: no Nagle delay, and a peer whose host has
        vanished is noticed by the system."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def listen(self, endpoint: Endpoint, backlog: int | None = BACKLOG, mode: int | None = None) -> Socket:
        """A non-blocking socket that listens at `endpoint`; `mode` is that of a unix socket's file.  Without
        `backlog` it only has the address, and nobody can connect.

        Raises ``OSError``.
        """
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if endpoint.family in (AF_INET, AF_INET6):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if endpoint.family == AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(endpoint.sockaddr)
            if mode is not None:
                os.chmod(endpoint.sockaddr, mode)  # nobody can connect before `listen`
            if backlog is not None:
                sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def peer_credentials(self, sock: Socket) -> tuple[int, int] | None:
        """``(process id, user id)`` of the other end of a unix socket, where the system tells."""
        if not hasattr(socket, 'SO_PEERCRED'):
            return None
        pid, uid, _ = PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEERCRED.size))
        return pid, uid

    def is_own_user(self, sock: Socket) -> bool:
        """Is the other end of a unix socket a process of the same user, or of root?  False where the system
        does not tell, and for other sockets.
        """
        if sock.family != AF_UNIX:
            return False
        credentials = self.peer_credentials(sock)
        return credentials is not None and credentials[1] in (os.geteuid(), 0)

    def connect_error(self, sock: Socket) -> int:
        """The pending error number of a socket whose connect was under way; 0 when connected."""
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    #: How long a thread looks for input before it sleeps, in seconds; see `Eagerness`.  With a single
    #: processor whoever looks would keep the peer from answering; under a virtual clock 0, too.
    eager_s = EAGER_S if usable_processors() > 1 else 0.0
    #: What it takes a server to send a small message, at least, in seconds.
    sending_s = 0.000003
    give_way = staticmethod(getattr(os, 'sched_yield', lambda: None))

    def input_poll(self, fd: int) -> Callable[[float], Any]:
        """A function that tells whether there is input at `fd`; its argument is how long it may wait, in ms.
        One thread at a time."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return poll.poll

    def wait(self, fd: int, read: bool, write: bool, timeout: float | None) -> bool:
        """Block until `fd` is ready; False after `timeout` seconds."""
        poll = select.poll()
        poll.register(fd, (select.POLLIN if read else 0) | (select.POLLOUT if write else 0))
        if timeout is not None:
            timeout = max(0, int(min(timeout, LONGEST_WAIT_S) * 1000 + 0.999))
        return bool(poll.poll(timeout))

    # -- what the system allows, and says -------------------------------------------------------
    def memory_size(self) -> int | None:
        """Bytes of memory that machine and container give this process; None if that is not known."""
        return min(_memory_limits(self.open), default=None)

    def descriptor_limits(self) -> tuple[int, int]:
        """How many descriptors this process may have, now and at most."""
        soft, hard = (sys.maxsize if limit == resource.RLIM_INFINITY else limit
                      for limit in resource.getrlimit(resource.RLIMIT_NOFILE))
        return soft, hard

    def raise_descriptor_limit(self, limit: int) -> None:
        """Let this process have so many.  Raises ``OSError`` or ``ValueError``."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def environment(self, name: str) -> str:
        """A variable of the environment; empty if there is none."""
        return os.environ.get(name, '')

    def next_descriptor(self) -> int:
        """The number that the next descriptor will have, the lowest that is free.  Raises ``OSError``."""
        fd = os.open(os.devnull, os.O_RDONLY)
        os.close(fd)
        return fd

    # -- files ----------------------------------------------------------------------------------
    def open(self, path: str, mode: str, buffering: int = -1) -> IO[bytes]:
        """Open a binary file, as the function of that name does."""
        return open(path, mode, buffering)

    def create(self, path: str) -> IO[bytes]:
        """A new file that only this user may read and write.  Raises ``FileExistsError``."""
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), 'wb')

    rename = staticmethod(os.replace)
    remove = staticmethod(os.remove)
    copy = staticmethod(shutil.copyfile)
    mkdir = staticmethod(os.mkdir)
    rmdir = staticmethod(os.rmdir)
    listdir = staticmethod(os.listdir)
    stat = staticmethod(os.stat)
    lstat = staticmethod(os.lstat)
    fstat = staticmethod(os.fstat)
    disk_usage = staticmethod(shutil.disk_usage)
    chmod = staticmethod(os.chmod)
    utime = staticmethod(os.utime)
    symlink = staticmethod(os.symlink)
    readlink = staticmethod(os.readlink)
    close_fd = staticmethod(os.close)
    dup = staticmethod(os.dup)
    fsync = staticmethod(os.fsync)

    def absolute_path(self, path: str | os.PathLike[str]) -> str:
        """`path` as seen from the root, whatever the working directory will be."""
        return os.path.abspath(path)

    def exists(self, path: str) -> bool:
        """Is there something at `path`?"""
        return self._status(path) is not None

    def is_directory(self, path: str) -> bool:
        """Is it a directory, perhaps through a link?"""
        status = self._status(path)
        return status is not None and stat.S_ISDIR(status.st_mode)

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return self.stat(path)
        except (OSError, ValueError):
            return None

    def size(self, path: str) -> int:
        """Bytes of the file.  Raises ``OSError``."""
        return self.stat(path).st_size

    def entries(self, directory: str) -> list[os.DirEntry[str]]:
        """What is in `directory`."""
        with os.scandir(directory) as found:
            return list(found)

    def sync_file(self, path: str) -> None:
        """Return when the contents of `path` would survive a loss of power."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def sync_directory(self, path: str) -> None:
        """Return when the names in `path` would; at once on file systems that know no such thing."""
        fd = self.open_directory(path)
        try:
            self.fsync(fd)
        except OSError as error:
            if error.errno not in NO_SYNC:
                raise
        finally:
            os.close(fd)

    def open_directory(self, path: str) -> int:
        """A descriptor of a directory, to lock or to sync it."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_to_lock(self, path: str) -> int:
        """A descriptor of `path`, which is made if need be; another user's is enough."""
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError as error:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise error from None

    def flock(self, fd: int, *, shared: bool = False, wait: bool = True) -> bool:
        """Lock an open file or directory until it is closed; False if somebody has it and `wait` is false.

        Raises ``OSError`` on file systems without locks.
        """
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def may_write_in(self, directory: str) -> bool:
        """Has this process the right to make, rename and remove files there?"""
        return os.access(directory, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)

    def credentials(self) -> tuple[int, list[int]]:
        """User and groups of this process."""
        return os.geteuid(), sorted({os.getegid(), *os.getgroups()})

    pread = staticmethod(os.pread)
    pwrite = staticmethod(os.pwrite)

    def memory(self, size: int) -> mmap.mmap | None:
        """`size` bytes of zeros, of which only those that are written take memory; None if that cannot be."""
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, 'MAP_NORESERVE', 0)
        try:
            return mmap.mmap(-1, size, flags=flags)
        except (OSError, ValueError, OverflowError):
            return None

    def touch(self, memory: mmap.mmap, at: int, length: int) -> None:
        """All of this part of `memory` will be written; `at` is where a page begins."""
        if sys.platform == 'linux':
            with contextlib.suppress(OSError):
                memory.madvise(POPULATE_WRITE, at, length)

    def file_identity(self, fd: int) -> bytes:
        """16 bytes that change when the file is copied or the system boots anew; b'' if unknown.

        Equal at two times: whatever was written to the file between them was not lost by the system.
        """
        try:
            with open('/proc/sys/kernel/random/boot_id', 'rb') as boot:
                described = boot.read() + str(os.fstat(fd).st_ino).encode()
        except OSError:
            return b''
        return hashlib.blake2b(described, digest_size=16).digest()

    def lock_file(self, path: str) -> zc.lockfile.LockFile:
        """Lock `path`, a file made for that; it then holds "pid hostname".  Has ``close()``.

        Raises ``zc.lockfile.LockError`` when somebody holds it, else ``OSError``.
        """
        return zc.lockfile.LockFile(path, content_template='{pid} {hostname}')

    def forsake_lock(self, lock: zc.lockfile.LockFile) -> None:
        """Drop the copy of a lock in a process that was forked; the lock stays its parent's."""
        lock._fp.close()  # its own close() would unlock it for both

    #: The system's directory for temporary files, as text.
    temporary_directory = staticmethod(tempfile.gettempdir)

    def temporary_file(self, directory: str | None = None) -> IO[bytes]:
        """An unnamed binary file, gone when closed.  `directory` default: the system's."""
        return tempfile.TemporaryFile(dir=directory, prefix='zeo-clone-')

    # -- random numbers: for jitter and identities, not for secrets -----------------------------
    random = staticmethod(random.random)
    randbytes = staticmethod(os.urandom)


REAL = Runtime()
