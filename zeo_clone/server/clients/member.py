"""A client that has registered for a storage: what its methods use, and what a commit tells it.

In: what methods want done, now or in worker threads; word of its transactions.  Out: one-way calls of the
client; its place in the audience, in the commit lock's queue and among the outcomes, which it leaves at the
end, whoever ended it.  Loop thread only, apart from `describe`.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from zeo_clone.server.backend.iterators import Iterators
from zeo_clone.server.clients.downloads import Downloads
from zeo_clone.server.clients.limits import check_room
from zeo_clone.server.clients.longcalls import LongCalls
from zeo_clone.server.clients.methods import METHODS, find
from zeo_clone.server.clients.peer import BURST
from zeo_clone.server.commits.transactor import Transactor
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Method, Refused
from zeo_clone.zrpc import faults, marshal
from zeo_clone.zrpc.frames import frame

if TYPE_CHECKING:
    from zeo_clone.server.backend.commit import StorageCommit
    from zeo_clone.server.backend.workers import Workers
    from zeo_clone.server.clients.session import Session
    from zeo_clone.server.served import ServedStorage

#: What a client says about a transaction is counted, as long as it is kept, from this size on, in bytes.
SMALL_META = 1000
#: What Z4 clients are told as the serial of a record that the server has changed.
RESOLVED = b'rs'


class Member:
    """The client of `session`, in `served`."""

    methods = METHODS

    def __init__(self, session: Session, served: ServedStorage, read_only: bool) -> None:
        self.session = session
        self.server = session.server
        self.served = served
        self.backend = served.backend
        self.reader = served.reader_for(self)  # where it reads current records
        self.stats = served.stats
        self.hot = served.backend.hot.recent
        self.loads = self.commits = 0
        self.told: dict[str, Any] = {}  # by the client about itself: version, hits and misses of its cache
        self.read_only = read_only
        self.peer = session.peer
        self.calls = session.calls
        self.channel = channel = session.channel
        self.follow, self.tell_news, self.skip_news = channel.follow, channel.tell_news, channel.skip_news
        self.core = session.channel.core
        self.share = session.channel.share  # what it has waiting
        #: Does it speak the protocol of ZEO 4?  Then it is told tids at the vote.
        self.is_z4 = self.wants_early_tid = session.is_z4
        self._token: bytes | None = None  # who the client is, over several connections
        self._meta_size = 0  # of what was said about the last transaction, if it is much
        self.downloads = Downloads(self)
        self.long_calls = LongCalls(self)
        self.iterators = Iterators(session.server.runtime)
        self.transactor = Transactor(served, self, read_only)

    def __repr__(self) -> str:
        return f'<Member {self.name} of {self.served!r}>'

    # ---- who it is --------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Peer and label, for log lines."""
        return self.peer.name

    @property
    def origin(self) -> str:
        """What of it does not change with each connection."""
        return self.peer.origin

    @property
    def is_ours(self) -> bool:
        """Is the client one of this package?"""
        return self._token is not None

    @property
    def token(self) -> bytes | None:
        """Who the client is, over several connections and servers; None: it does not say."""
        return self._token

    @property
    def with_rich(self) -> bool:
        """Does the client take values of `rich`?"""
        return self.core.with_rich

    def take_rich_values(self) -> None:
        """The client takes rich values from now on."""
        self.core.with_rich = self.iterators.with_rich = True

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent."""
        return self.channel.traffic

    def describe(self) -> dict[str, Any]:
        """See `Attendee`: ``age`` in seconds, ``sent``, ``received`` and ``queued`` in bytes."""
        sent, received, queued = self.traffic
        return {'address': self.peer.address, 'label': self.peer.label, 'protocol': self.core.protocol,
                'read_only': self.read_only,
                'age': round(self.session.age_s, 3),
                'loads': self.loads, 'commits': self.commits,
                'sent': sent, 'received': received, 'queued': queued, **self.told,
                'stalled': round(self.session.pulse.stalled_s(queued, sent), 3),
                'transaction': self.transactor.phase_name}

    # ---- what its methods are ---------------------------------------------------------------------

    def find(self, name: str) -> Method | None:
        """A method that its storage offers."""
        return find(self, name)

    def doom(self, error: Exception) -> bool:
        """An operation was bad: remember that until the vote.  False if there is nothing to doom."""
        return self.transactor.doom(error)

    # ---- work in other threads ----------------------------------------------------------------------

    @property
    def workers(self) -> Workers:
        """Threads for what may take long: a storage that lets questions wait keeps no other one's busy."""
        return self.backend.workers or self.server.workers

    def slow(self, function: Callable[[], Any]) -> Deferred:
        """Have `function` called in a worker thread, after earlier ones of this client."""
        return self.workers.run(self, self.backend.for_client(function))

    def run_sync(self, function: Callable[[], object]) -> Deferred:
        """Have `function`, which waits for the disk, called in a worker thread for that."""
        return self.server.syncers.run(self, function)

    def iterate(self, function: Callable[..., Any], *args: Any, long: bool = False) -> Deferred:
        """Have a method of `Iterators` called in a worker thread; `long`: it may read a long way."""
        return self.workers.run(self, partial(self.iterators.call, function, *args), long=long)

    def forget_iterators(self, iterator_ids: list[int]) -> None:
        """The client is done with these."""
        known = self.iterators.known(iterator_ids)
        if known:
            self.iterate(Iterators.forget, known)

    def pack(self, time: float) -> Deferred:
        """Pack in a thread for that.  Raises StorageTransactionError if it is being packed."""
        return self.served.pack(self, time, partial(self.server.packers.run, self.served))

    # ---- room ---------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self.channel.queued

    def check_room(self, long: bool = False) -> None:
        """Raises OSError if there is no descriptor for a file of this client, which may stay open for `long`.
        """
        check_room(self.server.runtime, self.server.limits, long)

    def want_room(self) -> None:
        """Go on with downloads and long calls when little output waits."""
        self.channel.want_room()

    def handle_room(self) -> None:
        """There is room for more output."""
        self.downloads.go_on()
        self.long_calls.go_on()

    def count_meta(self) -> None:
        """What the message in hand says about a transaction is kept, and what the last one said is not."""
        size = self.core.frames.length
        if size > SMALL_META or self._meta_size:
            size = size if size > SMALL_META else 0
            self.share.add(size - self._meta_size)
            self._meta_size = size

    # ---- outcomes of its transactions (C11) -----------------------------------------------------------

    def identify(self, token: bytes, number: int) -> None:
        """The client is `token`.  Its earlier connection, should there be one, is closed (C11)."""
        if self._token is not None:
            raise Refused('this connection has said who it is already')
        self._token = token
        before = self.served.outcomes.arrive(token, number, self)
        if before is not None:
            before.disconnect('the same client has connected again')

    def note_outcome(self, transaction_id: object, tid: bytes | None) -> None:
        """Remember how a transaction of the client ended."""
        if tid is not None:
            self.commits += 1
        if self._token is not None and type(transaction_id) is int:
            self.served.outcomes.note(self._token, transaction_id, tid)

    def note_nothing(self, transaction_id: object) -> None:
        """Remember that a transaction of the client was not committed, although it was to be."""
        if self._token is not None and type(transaction_id) is int:
            self.served.outcomes.withdraw(self._token, transaction_id)

    def commit_outcome(self, number: int) -> Any:
        """What became of the client's transaction `number`; later if it is on its way to the disk."""
        if self._token is None:
            raise Refused('this connection has not said who it is')
        return self.served.commit_outcome(self._token, number)

    # ---- what it is told ----------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Is there still a connection?"""
        return not self.channel.closed

    def send(self, data: bytes) -> None:
        """The bytes of messages."""
        if data:
            self.channel.send(data)

    def send_oneway(self, name: str, args: tuple[Any, ...]) -> None:
        """Call a method of the client."""
        self.channel.tell(name, args)

    def queue_oneway(self, name: str, args: tuple[Any, ...]) -> None:
        """Call a method of the client, in a later turn of the loop."""
        self.channel.tell_later(name, args)

    def report_vote(self, commit: StorageCommit) -> list[Any] | None:
        """The vote's reply: changed oids, and for a client that has said who it is the tid, by which it finds
        out what happened should the server be restarted (C11); Z4 clients get a list of serials first, and
        None."""
        if not self.is_z4:
            tid = None if self._token is None else commit.expected
            return commit.changed if tid is None else [*commit.changed, {'tid': tid}]
        resolved = set(commit.resolved)
        serials = [(oid, RESOLVED if oid in resolved else commit.tid) for oid in commit.stored]
        self.send_oneway('serialnos', ([*serials, *((oid, RESOLVED) for oid in commit.undone)],))
        return None

    def report_failed_store(self, commit: StorageCommit, error: Exception) -> bool:
        """Z4 clients learn about a store that failed from the list of serials."""
        if not self.is_z4 or commit.failing is None or commit.failing.oid is None:
            return False
        self.calls.log('vote', error)
        instance = faults.z4_error(error)[1]
        message = (0, 1, 'serialnos', ([(commit.failing.oid, instance)],))
        self.channel.send(frame(marshal.dumps(message, exceptions=True)))
        return True

    # ---- the end ------------------------------------------------------------------------------------

    def disconnect(self, reason: str, level: int = logging.WARNING) -> None:
        """Close the connection."""
        self.channel.lose(reason, level)

    def expel(self, by: str) -> None:
        """An operator wants this client to go."""
        self.peer.report(logging.WARNING, 'expelled', '%s: disconnected by %s', self.name, by, burst=BURST)
        self.channel.lose(f'by {by}', logging.DEBUG)

    def leave(self) -> list[Callable[[], object]]:
        """When the connection has gone: the steps out of the storage, after the end of a transaction, ..."""
        steps: list[Callable[[], object]] = [partial(self.served.audience.part, self)]
        if self._token is not None:
            steps.append(partial(self.served.outcomes.leave, self._token, self))
        return steps

    def end(self) -> list[Callable[[], object]]:
        """... and those that end all that was its own."""
        return [self.downloads.close, self.long_calls.close, self.iterators.close]
