"""`SimRuntime`: what a simulated process gets instead of the real clock, threads, network and files.

It replaces everything that `zeo_clone.loop.runtime.Runtime` has; a test looks whether something is missing.
"""
from __future__ import annotations

import errno
import hashlib
import io
import mmap
import os
import socket
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import zc.lockfile

from simulation import disk as disks
from simulation.network import PairEnd, SimSocket, failure
from simulation.polling import READ, WRITE, Epoll, One, Selector
from simulation.sync import Condition, Event, Lock, RLock
from zeo_clone.loop.runtime import AF_INET, BACKLOG, Endpoint, Runtime

if TYPE_CHECKING:
    from simulation.kernel import Task
    from simulation.machine import Process

#: What a process may have open at most.
DESCRIPTORS = 1024
#: What Python keeps of a file, in bytes; from 3.14 on it would be more.
BUFFER = 8192


class Usage(NamedTuple):
    """As of ``shutil.disk_usage``."""

    total: int
    used: int
    free: int


class LockFile:
    """As ``zc.lockfile.LockFile``: a file that says who holds it."""

    def __init__(self, runtime: SimRuntime, path: str) -> None:
        self._runtime = runtime
        self._fd = runtime.open_to_lock(path)
        if not runtime.flock(self._fd, wait=False):
            runtime.close_fd(self._fd)
            raise zc.lockfile.LockError(f"Couldn't lock {path!r}")
        process = runtime.process
        node = process.fds[self._fd].node
        node.truncate(0)
        node.write(0, f' {process.pid} {process.machine.name}\n'.encode())

    def close(self) -> None:
        if self._fd >= 0:
            thing = self._runtime.process.fds[self._fd]
            thing.node.locks.pop(thing, None)  # it is unlocked, whoever else has it open
            self._runtime.close_fd(self._fd)
            self._fd = -1


class SimRuntime(Runtime):
    """Of one process."""

    epoll: Any
    eager_s = 0.0
    SHUT_RDWR = socket.SHUT_RDWR

    def __init__(self, process: Process) -> None:
        self.process = process
        self._kernel = kernel = process.kernel
        self._machine = machine = process.machine
        self._disk = machine.disk
        self._dice = machine.dice.fork(f'{process.name}/{kernel.turns}')
        self.random = self._dice.random
        self.randbytes = self._dice.bytes
        self.monotonic = self._monotonic
        self.time = machine.wall_clock
        if self._dice.chance(0.8):
            self.epoll = self._epoll
        else:
            self.epoll = None
        self._maps = self._dice.chance(0.5)
        self._mark = [True]
        self.sending_s = self._dice.choice((0.0, 0.0005, 0.01))

    def __repr__(self) -> str:
        return f'<SimRuntime of {self.process.name}>'

    # ---- clock ------------------------------------------------------------------------------------

    def _monotonic(self) -> float:
        kernel = self._kernel
        kernel.give_way()
        return kernel.look() * self._machine.rate

    # ---- threads and locks ------------------------------------------------------------------------

    def lock(self) -> Any:
        return Lock(self._kernel)

    def rlock(self) -> Any:
        return RLock(self._kernel)

    def condition(self, lock: Any = None) -> Any:
        return Condition(self._kernel, lock)

    def event(self) -> Any:
        return Event(self._kernel)

    def get_ident(self) -> int:
        current = self._kernel.current
        return current.number if current is not None else 0

    def start_thread(self, target: Callable[[], object], name: str, *, daemon: bool = True) -> Task:
        self.process.may_fail('thread', name)
        return self.process.spawn(target, name)

    def getpid(self) -> int:
        return self.process.pid

    def at_fork(self, **functions: Callable[[], object]) -> None:
        """`Client.fork` calls them itself."""

    def at_exit(self, function: Callable[[], object]) -> None:
        """Whoever starts a process ends it."""

    def home(self) -> Any:
        return self._mark

    def finish_fork(self) -> None:
        """Of a child; here a child does nothing."""

    def give_way(self) -> None:
        self._kernel.switch()

    # ---- network ----------------------------------------------------------------------------------

    def _epoll(self) -> Epoll:
        return Epoll(self.process)

    def selector(self) -> Any:
        return Selector(self.process)

    def socketpair(self) -> tuple[PairEnd, PairEnd]:
        one, other = PairEnd(self.process), PairEnd(self.process)
        one.other, other.other = other, one
        return one, other

    def resolve(self, host: str | None, port: int, *, passive: bool = False) -> list[Endpoint]:
        found = self.in_numbers(host, port)
        if found or host is None:
            return found or [Endpoint(AF_INET, (self._machine.address, port))]
        self._kernel.sleep(self._machine.network.delay())
        self.process.may_fail('resolve', host)
        found = [Endpoint(AF_INET, (address, port))
                 for address, machine in self._machine.network.machines.items() if machine.name == host]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, 'Name or service not known')
        return found

    def in_numbers(self, host: str | None, port: int) -> list[Endpoint]:
        if host is not None and host.replace('.', '').isdecimal():
            return [Endpoint(AF_INET, (host, port))]
        return []

    def socket(self, family: int) -> Any:
        self.process.may_fail('socket', '')
        sock = SimSocket(self.process, family)
        sock.is_tuned = True
        return sock

    def tune(self, sock: Any) -> None:
        sock.is_tuned = True

    def listen(self, endpoint: Endpoint, backlog: int | None = BACKLOG, mode: int | None = None) -> Any:
        port = endpoint.sockaddr[1] or self._machine.next_port()
        if port in self._machine.listeners:
            raise failure(errno.EADDRINUSE)
        sock = SimSocket(self.process, endpoint.family)
        sock.listen_at(port, backlog)
        return sock

    def peer_credentials(self, sock: Any) -> tuple[int, int] | None:
        return None

    def is_own_user(self, sock: Any) -> bool:
        return False

    def connect_error(self, sock: Any) -> int:
        return int(sock.pending_error())

    def input_poll(self, fd: int) -> Callable[[float], Any]:
        poll = One(self.process, fd, READ)
        return lambda milliseconds: poll.poll(None if milliseconds is None or milliseconds < 0
                                              else milliseconds / 1000)

    def wait(self, fd: int, read: bool, write: bool, timeout: float | None) -> bool:
        return One(self.process, fd, (READ if read else 0) | (WRITE if write else 0)).poll(timeout)

    # ---- what the system allows -------------------------------------------------------------------

    def memory_size(self) -> int | None:
        return 1 << 30

    def descriptor_limits(self) -> tuple[int, int]:
        return DESCRIPTORS, DESCRIPTORS

    def raise_descriptor_limit(self, limit: int) -> None:
        raise ValueError('no more than that')

    def environment(self, name: str) -> str:
        return ''

    def next_descriptor(self) -> int:
        return self.process.next_fd()

    # ---- files ------------------------------------------------------------------------------------

    def open(self, path: str, mode: str, buffering: int = -1) -> IO[bytes]:
        self.process.may_fail('open', path)
        file: IO[bytes] = open_file(self.process, path, mode, buffering)
        return file

    def create(self, path: str) -> IO[bytes]:
        self.process.may_fail('open', path)
        self._disk.make(path, stat.S_IFREG | 0o600)
        file: IO[bytes] = open_file(self.process, path, 'wb')
        return file

    def rename(self, old: str, new: str) -> None:
        self.process.may_fail('rename', new)
        self._kernel.give_way()
        self._disk.rename(old, new)

    def remove(self, path: str) -> None:
        self.process.may_fail('remove', path)
        self._kernel.give_way()
        self._disk.remove(path)

    def copy(self, source: str, target: str) -> str:
        data = bytes(self._disk.find(source).data)
        with self.open(target, 'wb') as file:
            file.write(data)
        return target

    def absolute_path(self, path: str | os.PathLike[str]) -> str:
        return os.path.normpath(os.path.join('/', path))

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self.process.may_fail('mkdir', path)
        self._disk.make(path, stat.S_IFDIR | mode & 0o755)

    def rmdir(self, path: str) -> None:
        self.process.may_fail('remove', path)
        self._disk.remove(path, directory=True)

    def listdir(self, path: str) -> list[str]:
        self.process.may_fail('listdir', path)
        node = self._disk.find(path)
        if not node.is_directory:
            raise failure(errno.ENOTDIR)
        return list(node.names)

    def entries(self, directory: str) -> list[Any]:
        node = self._disk.find(directory)
        return [disks.Entry(directory, name, child, disks.describe) for name, child in node.names.items()]

    def stat(self, path: str) -> os.stat_result:
        self.process.may_fail('stat', path)
        return disks.describe(self._disk.find(path))

    def lstat(self, path: str) -> os.stat_result:
        self.process.may_fail('stat', path)
        return disks.describe(self._disk.find(path, follow=False))

    def fstat(self, fd: int) -> os.stat_result:
        return disks.describe(self._node(fd))

    def disk_usage(self, path: str) -> Usage:
        disk = self._disk
        return Usage(disk.capacity, disk.used, disk.capacity - disk.used)

    def chmod(self, path: str, mode: int) -> None:
        node = self._disk.find(path)
        node.mode = stat.S_IFMT(node.mode) | mode

    def utime(self, path: str, times: tuple[float, float] | None = None) -> None:
        node = self._disk.find(path)
        node.atime, node.mtime = times or (self._disk.now(), self._disk.now())

    def symlink(self, source: str, target: str) -> None:
        self.process.may_fail('symlink', target)
        self._disk.make(target, stat.S_IFLNK | 0o777).target = source

    def readlink(self, path: str) -> str:
        node = self._disk.find(path, follow=False)
        if not stat.S_ISLNK(node.mode):
            raise failure(errno.EINVAL)
        return node.target

    def close_fd(self, fd: int) -> None:
        thing = self.process.fds.get(fd)
        if thing is None:
            raise failure(errno.EBADF)
        if not self.process.is_shared(thing):
            thing.node.locks.pop(thing, None)
        self.process.free_fd(fd)
        self._machine.wake_lockers()

    def dup(self, fd: int) -> int:
        return disks.OpenDirectory(self.process, self._node(fd)).fd

    def _node(self, fd: int) -> disks.Node:
        thing = self.process.fds.get(fd)
        if thing is None:
            raise failure(errno.EBADF)
        thing.check()
        node: disks.Node = thing.node
        return node

    def fsync(self, fd: int) -> None:
        node = self._node(fd)
        try:
            self.process.may_fail('fsync', '')
        except OSError:
            if self._dice.chance(0.5):
                node.forget()
            raise
        count = len(node.pending)
        if self._kernel.current is not None:
            self._kernel.sleep(self._dice.between(*self._machine.sync_s))
        self._kernel.note('sync', self.process.name, node.number, count)
        if node.is_directory:
            node.disk.sync_names(node)
        else:
            node.sync(count)
            node.disk.sync_names(None)

    def sync_file(self, path: str) -> None:
        self._sync(path)

    def sync_directory(self, path: str) -> None:
        self._sync(path)

    def _sync(self, path: str) -> None:
        self.process.may_fail('open', path)
        opened = disks.OpenDirectory(self.process, self._disk.find(path))
        try:
            self.fsync(opened.fd)
        finally:
            self.process.free_fd(opened.fd)

    def temporary_directory(self) -> str:
        return '/tmp'

    def open_directory(self, path: str) -> int:
        self.process.may_fail('open', path)
        node = self._disk.find(path)
        if not node.is_directory:
            raise failure(errno.ENOTDIR)
        return disks.OpenDirectory(self.process, node).fd

    def open_to_lock(self, path: str) -> int:
        self.process.may_fail('open', path)
        try:
            node = self._disk.find(path)
        except FileNotFoundError:
            node = self._disk.make(path, stat.S_IFREG | 0o666)
        return disks.OpenDirectory(self.process, node).fd

    def flock(self, fd: int, *, shared: bool = False, wait: bool = True) -> bool:
        thing = self.process.fds[fd]
        thing.check()
        locks = thing.node.locks
        while any(other is not thing and not (shared and theirs) for other, theirs in locks.items()):
            if not wait:
                return False
            self._machine.wait_for_lock()
        locks[thing] = shared
        return True

    def may_write_in(self, directory: str) -> bool:
        return True

    def credentials(self) -> tuple[int, list[int]]:
        return 1000, [1000]

    def pread(self, fd: int, count: int, at: int) -> bytes:
        self.process.may_fail('read', '')
        self._kernel.give_way()
        return bytes(self._node(fd).data[at:at + count])

    def pwrite(self, fd: int, data: bytes, at: int) -> int:
        self.process.may_fail('write', '')
        self._kernel.give_way()
        node = self._node(fd)
        return disks.pwrite(node.disk, node, bytes(data), at)

    def memory(self, size: int) -> mmap.mmap | None:
        return super().memory(size) if self._maps else None

    def file_identity(self, fd: int) -> bytes:
        described = f'{self._machine.name} {self._machine.boots} {self._node(fd).number}'
        return hashlib.blake2b(described.encode(), digest_size=16).digest()

    def lock_file(self, path: str) -> Any:
        self.process.may_fail('open', path)
        return LockFile(self, path)

    def forsake_lock(self, lock: Any) -> None:
        """Of a child, too."""

    def temporary_file(self, directory: str | None = None) -> IO[bytes]:
        self.process.may_fail('open', 'temporary')
        node = self._disk._new(stat.S_IFREG | 0o600)
        return io.BufferedRandom(disks.Raw(self.process, node, 'w+b', 'temporary'), BUFFER)


def open_file(process: Process, path: str | int, mode: str = 'r', buffering: int = -1) -> Any:
    """As ``open``."""
    disk = process.machine.disk
    kind = mode.replace('b', '').replace('t', '')
    fd = None
    if isinstance(path, int):
        node, kind, fd, path = process.fds[path].node, 'r+', path, f'descriptor {path}'
    elif 'x' in kind:
        node = disk.make(path, stat.S_IFREG | 0o644)
        kind = kind.replace('x', 'w')
    elif 'r' in kind:
        node = disk.find(path)
    else:
        try:
            node = disk.find(path)
        except FileNotFoundError:
            node = disk.make(path, stat.S_IFREG | 0o644)
    if node.is_directory:
        raise failure(errno.EISDIR)
    raw = disks.Raw(process, node, kind, path, fd)
    if not buffering and 'b' in mode:
        return raw
    buffered: Any
    if '+' in kind:
        buffered = io.BufferedRandom(raw, BUFFER)
    elif 'r' in kind:
        buffered = io.BufferedReader(raw, BUFFER)
    else:
        buffered = io.BufferedWriter(raw, BUFFER)
    return buffered if 'b' in mode else io.TextIOWrapper(buffered)
