"""The book: what the clients of a run were promised, and what they have seen.

Filled in while it runs, by whoever sees something; nothing here is part of what is simulated.  `oracles`
compares it with the history that is left at the end.  What is wrong at once, is said at once, by `blame`.
"""
from __future__ import annotations

import enum
from typing import Any, NamedTuple

from ZODB.utils import z64


class Fate(enum.Enum):
    """What a client knows of an attempt to commit."""

    OPEN = 'begun'
    FINISHING = 'tpc_finish was called'
    ACKNOWLEDGED = 'acknowledged'
    REFUSED = 'refused'
    UNKNOWN = 'unknown'


class Attempt:
    """To commit something: its number is in every record that it writes."""

    __slots__ = ('adds', 'bases', 'client', 'fate', 'number', 'oids', 'past', 'tid', 'undoes')

    def __init__(self, number: int, client: str, oids: tuple[bytes, ...]) -> None:
        self.number = number
        self.client = client
        self.oids = oids
        self.bases: dict[bytes, bytes] = {}  # the serials that it relies on, of what it writes and checks
        self.adds: dict[bytes, int] = {}  # ... apart from counters: what it adds to each
        self.fate = Fate.OPEN
        self.tid: bytes | None = None
        self.undoes: bytes | None = None  # the transaction that it undoes
        self.past = 0  # how many backups had been restored when its fate was told

    def __repr__(self) -> str:
        tid = '' if self.tid is None else f', {self.tid.hex()}'
        return f'<attempt {self.number} of {self.client}: {self.fate.value}{tid}>'


class Seen(NamedTuple):
    """A snapshot that somebody read: as of `tid` these objects had these serials."""

    client: str
    tid: bytes
    serials: dict[bytes, bytes]


class Moved(NamedTuple):
    """What a storage told its database when its last transaction was `last`: `oids` of transactions up to
    `tid`; None: anything may have changed."""

    last: bytes
    tid: bytes
    oids: tuple[bytes, ...] | None


class Kept(NamedTuple):
    """What a cache had at the end of a client's life: (oid, start, end, record) of each entry, as of `last`.

    `is_final`: at the end of the run.
    """

    client: str
    last: bytes
    is_final: bool
    entries: list[tuple[bytes, bytes, bytes | None, bytes]]


class Life:
    """One ClientStorage, from its opening to its end: what it told its database, and its last tids."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.first = b''  # its last transaction when it was opened
        self.last = b''
        self.moves: list[Moved] = []


class Book:
    """Of one run."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.seen: list[Seen] = []
        self.iterated: list[tuple[str, list[tuple[bytes, tuple[bytes, ...]]]]] = []  # by whom, what in a row
        self.lives: list[Life] = []
        self.faults: list[str] = []  # what is wrong
        self.restored = 0  # backups, so far
        self.latest: dict[Any, bytes] = {}  # by server: of what its clients have heard that it is committed
        self.acknowledged = 0
        self.conflicts = 0
        self.refused = 0
        self.unknown = 0

    def new_attempt(self, client: str, oids: tuple[bytes, ...]) -> Attempt:
        """Somebody tries to write `oids`."""
        attempt = Attempt(len(self.attempts), client, oids)
        self.attempts.append(attempt)
        return attempt

    def settle(self, attempt: Attempt, fate: Fate, tid: bytes | None = None) -> None:
        """Its client knows more."""
        attempt.fate = fate
        attempt.tid = tid
        attempt.past = self.restored
        if fate is Fate.ACKNOWLEDGED:
            self.acknowledged += 1
        elif fate is Fate.REFUSED:
            self.refused += 1
        elif fate is Fate.UNKNOWN:
            self.unknown += 1

    def note_latest(self, tid: bytes, servers: tuple[Any, ...]) -> None:
        """A client of the first of `servers` has heard of `tid`, and that server from the next one."""
        for server in servers:
            self.latest[server] = max(tid, self.latest.get(server, z64))

    def blame(self, what: str) -> None:
        """Something is wrong."""
        if len(self.faults) < 20:
            self.faults.append(what)
