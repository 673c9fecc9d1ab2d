"""How much fits: connections, by the descriptors of the process, and what waits, by its memory (S12, S13).

In: what is configured, and what the system allows.  Out: `Limits`, found once, at start; and word before a
descriptor is taken for a client.  Knows no connection.
"""
from __future__ import annotations

import errno
from typing import NamedTuple

from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.server import HIGH_WATER

#: Connections at a time (N6), if there are descriptors for so many.
MAX_CONNECTIONS = 10_000
#: Descriptors kept for the files of each storage: a FileStorage has its data, lock and temporary file, one
#: reader for each thread that reads (the loop's, workers, packers), and what a pack writes.
FILES_PER_STORAGE = 16
#: Descriptors kept for the process: logs, listeners, poller, trigger, the monitor's connections.
OTHER_FILES = 32
#: Of the rest one part in so many is for files that clients cause: spooled transactions, blobs, iterators.
CLIENT_FILES = 8
#: It is no less than what is open before the first client comes, by the process and for each storage: a new
#: connection's number (`Limits.admits`) counts that too.
OPEN_AT_ONCE, OPEN_PER_STORAGE = 14, 3
#: One connection in so many may be a stranger's, who has not named a storage yet.
STRANGERS = 4
#: What may wait for all clients together, or twice the largest message, so that one can come in while another
#: goes out; but no more than half of the memory.
DEFAULT_MEMORY = 1 << 30
#: Some messages have to fit into that, at least.
LEAST_MEMORY = 1 << 20
#: What may wait for one client, at least: so much does for one that reads, a large answer when others wait.
LEAST_OUTPUT = 2 * HIGH_WATER


class Limits(NamedTuple):
    """What fits: `connections` at a time, `strangers` of them; `descriptors` of the process, of which `files`
    are kept for files; bytes of `memory` for what waits, and of a `frame` that a client may send.
    """

    connections: int
    strangers: int
    descriptors: int
    files: int
    memory: int
    frame: int

    def admits(self, fd: int) -> bool:
        """May a connection with this descriptor stay?  A new one has the lowest number that is free: so many
        are in use, by whomever."""
        return fd < self.descriptors - self.files

    def excuse(self, fd: int) -> str:
        """What a log line adds if it may not: there is less room than `connections` says."""
        return '' if self.admits(fd) else (
            f'; too many files are open for so many: the limit is {self.descriptors} descriptors, '
            f'{self.files} of them kept for files: raise it (ulimit -n, LimitNOFILE)')


def check_least(size: int, least: int, told: str) -> int:
    """`size`, of which a message says `told`.  Raises ValueError if it is less than `least` bytes."""
    if size < least:
        raise ValueError(f'{told} is less than the least, {least >> 20}MB')
    return size


def find_limits(runtime: Runtime, storages: int, max_connections: int, frame_limit: int,
                memory_limit: int | None = None, descriptors: int | None = None) -> Limits:
    """The limits of a server of so many storages, in a process that may have so many `descriptors`; None: as
    many as now.
    """
    if descriptors is None:
        descriptors = runtime.descriptor_limits()[0]
    files = min(_kept(storages), descriptors // 2)
    others = descriptors - files
    connections = max(1, min(max_connections, others * (CLIENT_FILES - 1) // CLIENT_FILES,
                             others - _open(storages)))
    if memory_limit is None:
        memory_limit = max(DEFAULT_MEMORY, 2 * frame_limit)
        size = runtime.memory_size()
        if size is not None:
            memory_limit = min(memory_limit, size // 2)
    return Limits(connections, max(1, connections // STRANGERS), descriptors, files, memory_limit,
                  min(frame_limit, memory_limit // 2))


def wanted_descriptors(storages: int, max_connections: int) -> int:
    """How many are needed for `max_connections`."""
    return max(max_connections * CLIENT_FILES // (CLIENT_FILES - 1) + 1,
               max_connections + _open(storages)) + _kept(storages)


def _open(storages: int) -> int:
    return OPEN_AT_ONCE + OPEN_PER_STORAGE * storages


def _kept(storages: int) -> int:
    return OTHER_FILES + FILES_PER_STORAGE * storages


def check_room(runtime: Runtime, limits: Limits, long: bool = False) -> None:
    """Before a file is opened for a client: is there a descriptor besides those of the storages?  Any thread.

    Raises OSError.  What may stay open for `long` must leave more, for what is soon done with.
    """
    kept = limits.files if long else limits.files // 2
    if runtime.next_descriptor() >= limits.descriptors - kept:
        raise OSError(errno.EMFILE, f'the server has too many open files: its limit is {limits.descriptors} '
                                    f'descriptors; try again later, or raise the limit (ulimit -n)')
