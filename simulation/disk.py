"""The disk of a machine: files and directories in memory, and what of them a loss of power leaves.

What is written is seen at once by everybody on the machine, and is sure only after a sync.  Until then it may
get lost, in part and in any order: of a file, writes may survive whose predecessors do not, and one of them
may be torn; but each sector is as it was at one moment, and a file grows from front to back.  Names are in a
journal, as on ext4: a loss of power takes its end, and a sync of whatever file makes the journal up to then
sure.  On a *strict* disk only the sync of a directory makes its names sure, and each directory loses its own.

A directory may be *mounted* on other machines, as a network file system has it: what they write there is on
this disk.  While its machine is down they find nothing, and what they had open then cannot be used any more.

Nothing here waits and nothing switches tasks: Python's own buffered files call it.
"""
from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from simulation.network import failure

if TYPE_CHECKING:
    from simulation.dice import Dice
    from simulation.machine import Process

#: Bytes that a disk writes at once.
SECTOR = 512
#: What a disk holds, unless it is full.
ROOM = 1 << 40


class Node:
    """A file, a directory or a symbolic link."""

    def __init__(self, disk: Disk, number: int, mode: int, now: float) -> None:
        self.disk = disk
        self.number = number
        self.mode = mode
        self.mtime = self.atime = now
        self.links = 0
        self.names: dict[str, Node] = {}  # of a directory
        self.sure_names: dict[str, Node] = {}
        self.target = ''  # of a symbolic link
        self.data = bytearray()  # of a file: what is seen
        self.sure = bytearray()  # ... and what is surely on the disk
        self.pending: list[tuple[int, bytes] | int] = []  # writes, and lengths, that are not
        self.forgotten = False  # a sync has failed, and what it should have written will never be
        self.locks: dict[object, bool] = {}  # by whom it is locked, and whether shared

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    def write(self, at: int, data: bytes) -> None:
        if at > len(self.data):
            self.data += bytes(at - len(self.data))
        self.data[at:at + len(data)] = data
        self.pending.append((at, data))

    def truncate(self, size: int) -> None:
        _resize(self.data, size)
        self.pending.append(size)

    def sync(self, count: int | None = None) -> None:
        """The first `count` of what is pending, or all of it, is sure."""
        done, self.pending = self.pending[:count], [] if count is None else self.pending[count:]
        for step in done:
            _apply(self.sure, step)

    def forget(self) -> None:
        """A sync has failed, and the system takes what it did not write for written, as Linux does."""
        self.pending.clear()
        self.forgotten = True

    def lose_power(self, dice: Dice) -> None:
        """Only what is on the disk is left.

        Of what came after a sync that failed nothing is, unless it was synced: a file with a hole, which ZODB
        cannot open, is not to be blamed on those who have stopped writing.
        """
        how = 0 if self.forgotten else dice.below(4)
        if how == 1:
            self.sync()
        elif how == 2:
            self.sync(dice.below(len(self.pending) + 1))
        elif how == 3:
            self._write_some(dice)
        self.pending = []
        self.data = bytearray(self.sure)
        self.forgotten = False
        self.locks = {}


    def _write_some(self, dice: Dice) -> None:
        """Of what is pending some is on the disk, as of a system that writes pages when it likes."""
        lost = False  # a file grows from front to back, as on ext4 and its kin
        stale: set[int] = set()  # sectors that were not written any more
        for step in self.pending:
            written = dice.chance(0.5)
            if isinstance(step, int):
                if written:
                    _resize(self.sure, step)
                continue
            at, data = step
            grows = at + len(data) > len(self.sure)
            size = 0
            if written and not (grows and lost) and stale.isdisjoint(_sectors(at, at + len(data))):
                size = _torn(at, len(data), dice)
                _apply(self.sure, (at, data[:size]))
            if size < len(data):
                stale.update(_sectors(at + size, at + len(data)))
                lost = lost or grows


def _sectors(start: int, end: int) -> range:
    return range(start // SECTOR, -(-end // SECTOR))


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data += bytes(size - len(data))


def _apply(data: bytearray, step: tuple[int, bytes] | int) -> None:
    if isinstance(step, int):
        _resize(data, step)
        return
    at, piece = step
    if at > len(data):
        data += bytes(at - len(data))
    data[at:at + len(piece)] = piece


def _torn(at: int, size: int, dice: Dice) -> int:
    """How much of a write is there: all of it, or whole sectors."""
    sectors = (at + size) // SECTOR - at // SECTOR
    if dice.chance(0.7) or not sectors:
        return size
    return (at // SECTOR + 1 + dice.below(sectors)) * SECTOR - at


class Disk:
    """Of one machine.  `capacity`: bytes."""

    def __init__(self, dice: Dice, now: Callable[[], float], strict: bool = False) -> None:
        self.dice = dice
        self.now = now
        self.strict = strict
        self.capacity = ROOM
        self.used = 0
        self._number = 1
        self.mounts: dict[str, Disk] = {}  # directories that are other disks', under the same names
        self.away = False  # its machine is down
        self.losses = 0  # of power
        self.root = self._new(stat.S_IFDIR | 0o755)
        self._journal: list[tuple[Node, str, Node | None]] = []
        self._used_at = 0

    def _new(self, mode: int) -> Node:
        self._number += 1
        return Node(self, self._number, mode, self.now())

    def make_room(self) -> None:
        """It is not full any more."""
        self.capacity = ROOM

    # ---- names ------------------------------------------------------------------------------------

    def _where(self, path: str) -> Disk:
        for directory, disk in self.mounts.items():
            if path.startswith(directory):
                if disk.away:
                    raise failure(errno.EIO)
                return disk
        return self

    def find(self, path: str, follow: bool = True) -> Node:
        """What is at `path`.  Raises ``FileNotFoundError``, ``NotADirectoryError``."""
        node = self._where(path).root
        parts = _parts(path)
        for index, part in enumerate(parts):
            if not node.is_directory:
                raise failure(errno.ENOTDIR)
            child = node.names.get(part)
            if child is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if stat.S_ISLNK(child.mode) and (follow or index < len(parts) - 1):
                child = self.find(os.path.join('/', *parts[:index], child.target))
            node = child
        return node

    def parent(self, path: str) -> tuple[Node, str]:
        """The directory and the name in it."""
        parts = _parts(path)
        directory = self.find('/' + '/'.join(parts[:-1]))
        if not directory.is_directory:
            raise failure(errno.ENOTDIR)
        return directory, parts[-1]

    def put(self, directory: Node, name: str, node: Node | None) -> None:
        """Give `node` a name, or take the name away."""
        before = directory.names.pop(name, None)
        if before is not None:
            before.links -= 1
        if node is not None:
            directory.names[name] = node
            node.links += 1
        directory.mtime = self.now()
        self._journal.append((directory, name, node))

    def make(self, path: str, mode: int) -> Node:
        """Something new."""
        directory, name = self.parent(path)
        if name in directory.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        node = directory.disk._new(mode)
        directory.disk.put(directory, name, node)
        return node

    def rename(self, old: str, new: str) -> None:
        """In one step, for whoever looks and for a loss of power."""
        source, name = self.parent(old)
        node = source.names.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), old)
        target, new_name = self.parent(new)
        if source.disk is not target.disk:
            raise failure(errno.EXDEV)
        there = target.names.get(new_name)
        if there is node:
            return
        if there is not None and there.is_directory and there.names:
            raise failure(errno.ENOTEMPTY)
        source.names.pop(name)
        if there is not None:
            there.links -= 1
        target.names[new_name] = node
        source.disk._journal += [(source, name, None), (target, new_name, node)]

    def remove(self, path: str, directory: bool = False) -> None:
        """A name."""
        parent, name = self.parent(path)
        node = parent.names.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if node.is_directory is not directory:
            raise failure(errno.EISDIR if node.is_directory else errno.ENOTDIR)
        if node.names:
            raise failure(errno.ENOTEMPTY)
        parent.disk.put(parent, name, None)

    # ---- what is sure -----------------------------------------------------------------------------

    def sync_names(self, directory: Node | None) -> None:
        """A file was synced (None), or a directory."""
        if not self.strict:
            self._write_journal(len(self._journal))
        elif directory is not None:
            rest = []
            for step in self._journal:
                if step[0] is directory:
                    _enter(step)
                else:
                    rest.append(step)
            self._journal = rest

    def _write_journal(self, count: int) -> None:
        for step in self._journal[:count]:
            _enter(step)
        del self._journal[:count]

    def lose_power(self) -> None:
        """Whatever was not sure may be gone."""
        dice = self.dice
        self.losses += 1
        if self.strict:
            keep: dict[int, bool] = {}
            for step in self._journal:
                if keep.setdefault(step[0].number, True) and dice.chance(0.6):
                    _enter(step)
                else:
                    keep[step[0].number] = False
            self._journal.clear()
        else:
            count = dice.below(len(self._journal) + 1)
            # A rename is two entries, and one step.
            if 0 < count < len(self._journal) and self._journal[count][2] is not None \
                    and self._journal[count - 1][2] is None:
                count += 1
            self._write_journal(count)
            self._journal.clear()
        for node in self._all(self.root, {}):
            if node.is_directory:
                node.names = dict(node.sure_names)
                node.locks = {}
            else:
                node.lose_power(dice)

    def _all(self, node: Node, seen: dict[int, None]) -> Iterator[Node]:
        if node.number not in seen:
            seen[node.number] = None
            for child in list(node.sure_names.values()):
                yield from self._all(child, seen)
            yield node

    def settle(self) -> None:
        """All that there is is on the disk: of the beginning of a run."""
        self._write_journal(len(self._journal))
        for node in self._all(self.root, {}):
            node.sync()

    def grow(self, size: int) -> bool:
        """So many bytes more; False if there is no room."""
        if self.used + size > self.capacity:
            return False
        self.used += size
        return True


def _enter(step: tuple[Node, str, Node | None]) -> None:
    directory, name, node = step
    directory.sure_names.pop(name, None)
    if node is not None:
        directory.sure_names[name] = node


def _parts(path: str) -> list[str]:
    return [part for part in os.path.normpath(os.path.join('/', path)).split('/') if part]


class Raw(io.RawIOBase):
    """An open file, below Python's buffers."""

    def __init__(self, process: Process, node: Node, mode: str, path: str, fd: int | None = None) -> None:
        super().__init__()
        self.process = process
        self.node = node
        self.name = path
        self._disk = node.disk
        self._losses = node.disk.losses
        self._reads = 'r' in mode or '+' in mode
        self._writes = mode.strip('bt') != 'r'
        self._appends = 'a' in mode
        self._at = len(node.data) if self._appends else 0
        if 'w' in mode:
            node.truncate(0)
        self._fd = process.next_fd() if fd is None else fd
        process.fds[self._fd] = self

    def __repr__(self) -> str:
        return f'<Raw {self.name}>'

    def vanish(self, silently: bool = False) -> None:
        """Its process is no more."""
        self.node.locks.pop(self, None)

    def _check(self) -> None:
        if self._fd < 0:
            raise ValueError('I/O operation on closed file')
        self.check()

    def check(self) -> None:
        """Raises ``OSError`` if it was open when the machine it is on lost its power."""
        if self._losses != self._disk.losses and not self.process.dead:
            raise failure(errno.EIO)

    def fileno(self) -> int:
        self._check()
        return self._fd

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._check()
        self.process.may_fail('read', self.name)
        data = self.node.data[self._at:self._at + len(buffer)]
        buffer[:len(data)] = data
        self._at += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        piece = bytes(data)
        if self.process.dead or self.process.kernel.ending:
            self._at += len(piece)
            return len(piece)  # a buffer that the garbage collector empties
        self._check()
        self.process.may_fail('write', self.name)
        if self._appends:
            self._at = len(self.node.data)
        written = pwrite(self._disk, self.node, piece, self._at)
        self._at += written
        return written

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check()
        base = {0: 0, 1: self._at, 2: len(self.node.data)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self._check()
        self.process.may_fail('truncate', self.name)
        size = self._at if size is None else size
        self.node.truncate(size)
        return size

    def close(self) -> None:
        if not self.closed and self._fd >= 0:
            if not self.process.dead:
                self.process.free_fd(self._fd)
            self._fd = -1
            if not self.process.is_shared(self):
                self.node.locks.pop(self, None)
        super().close()


def pwrite(disk: Disk, node: Node, data: bytes, at: int) -> int:
    """Write, as far as there is room.  Raises ``OSError`` if there is none at all."""
    more = at + len(data) - len(node.data)
    if more > 0 and not disk.grow(more):
        room = max(0, disk.capacity - disk.used)
        data = data[:max(0, len(node.data) - at) + room]
        if not data:
            raise failure(errno.ENOSPC)
        disk.grow(max(0, at + len(data) - len(node.data)))
    node.write(at, data)
    node.mtime = disk.now()
    return len(data)


class OpenDirectory:
    """A descriptor of a directory, or of a file that is only locked or synced."""

    def __init__(self, process: Process, node: Node) -> None:
        self.node = node
        self._losses = node.disk.losses
        self.fd = process.new_fd(self)

    def check(self) -> None:
        """As of `Raw`."""
        if self._losses != self.node.disk.losses:
            raise failure(errno.EIO)

    def vanish(self, silently: bool = False) -> None:
        """Its process is no more."""
        self.node.locks.pop(self, None)


class Entry:
    """As ``os.DirEntry``."""

    def __init__(self, directory: str, name: str, node: Node, describe: Callable[[Node], Any]) -> None:
        self.name = name
        self.path = os.path.join(directory, name)
        self._node = node
        self._describe = describe

    def inode(self) -> int:
        return self._node.number

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return self._node.is_directory

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISREG(self._node.mode)

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._node.mode)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        return self._describe(self._node)


def describe(node: Node) -> os.stat_result:
    """As ``os.stat``."""
    size = len(node.data)
    seconds = int(node.mtime)
    return os.stat_result((node.mode, node.number, 1, node.links, 1000, 1000, size, int(node.atime), seconds,
                           seconds, node.atime, node.mtime, node.mtime))
