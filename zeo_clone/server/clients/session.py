"""A session: the server's side of one client.

In: what the client calls, as events of its `ServerCore`; what a storage tells.  Out: exactly one reply
for each two-way call (S3), one-way calls of the client, one log line when something is refused.  When
the session ends, whoever ended it and why, `handle_lost` cleans everything up (C16).  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from transaction.interfaces import TransientError
from ZODB.POSException import POSError, ReadOnlyError, StorageError, Unsupported
from ZODB.utils import z64

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.transport import LARGE_PIECE
from zeo_clone.server.backend.iterators import Iterators
from zeo_clone.server.backend.packing import pack
from zeo_clone.server.clients import heartbeat
from zeo_clone.server.clients.arguments import is_usual_begin, is_usual_load, is_usual_store
from zeo_clone.server.clients.downloads import Downloads
from zeo_clone.server.clients.limits import check_room
from zeo_clone.server.clients.listen import origin
from zeo_clone.server.clients.longcalls import LongCalls
from zeo_clone.server.clients.methods import METHODS, Kind, Method, find
from zeo_clone.server.clients.operator import NotDone, read_wish
from zeo_clone.server.commits.commit import StorageCommit
from zeo_clone.server.commits.transactor import Transactor
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.served import ServedStorage
from zeo_clone.server.vocabulary import BadArgument, Meta, Operation, TooBusy
from zeo_clone.steps import take_steps
from zeo_clone.zrpc import faults, marshal
from zeo_clone.zrpc.channel.memory import Share
from zeo_clone.zrpc.channel.server import ServerChannel, describe
from zeo_clone.zrpc.connection import Administered, Agreed, Call, HealthChecked
from zeo_clone.zrpc.frames import frame
from zeo_clone.zrpc.messages import clean_label

if TYPE_CHECKING:
    from zeo_clone.server.server import StorageServer

log = logging.getLogger(__name__)


class Refused(ValueError):
    """A call that makes no sense at this moment."""


#: Exceptions that belong to ordinary work: the client gets them, the log has them at DEBUG (L4).
ORDINARY = (POSError, KeyError, Refused, BadArgument, TransientError, TooBusy)
#: Of lines about clients of one host so many come in a minute: that they come and go, and that they are
#: thrown out (S16).
BURST, BURST_OF_WARNINGS = 20, 5
#: What a client says about a transaction is counted, as long as it is kept, from this size on, in bytes.
SMALL_META = 1000
#: What a call costs that is answered later, besides its arguments.
CALL_OVERHEAD = 500
_new = tuple.__new__  # makes a NamedTuple in a third of the time
#: What Z4 clients are told as the serial of a record that the server has changed.
RESOLVED = b'rs'


class Session:
    """One client, from its connection to its end."""

    def __init__(self, server: StorageServer, channel: ServerChannel, peer: str) -> None:
        self.server = server
        self.name = peer
        self.is_z4 = False
        self.read_only = True
        self._peer = peer
        self._label = ''
        self._origin = origin(peer)
        self._came = server.runtime.monotonic()
        self._channel = channel
        self._core = channel.core
        self._token: bytes | None = None  # who the client is, over several connections
        self._beat_s: float | None = None  # the client promised to be heard this often
        self._sent_before = 0, self._came  # bytes, and at which beat something last went out, or had gone
        self._meta_size = 0  # of what was said about the last transaction, if it is much
        self.downloads = Downloads(self)
        self.long_calls = LongCalls(self)
        self._iterators = Iterators(server.runtime)
        self._served: ServedStorage | None = None
        self._transactor: Transactor | None = None
        #: The storage, where current records are read; None before there is one.
        self.reader: Any = None
        self.loads = self.commits = 0

    def __repr__(self) -> str:
        return f'<Session {self.name} {self._served!r}>'

    # ---- what methods use -------------------------------------------------------------------------

    @property
    def registered(self) -> bool:
        """Is there a storage?"""
        return self._served is not None

    @property
    def age_s(self) -> float:
        """For how long the client has been here."""
        return self.server.runtime.monotonic() - self._came

    @property
    def has_spoken(self) -> bool:
        """Has anything come from it?"""
        return self._channel.transport.received > 0

    @property
    def share(self) -> Share:
        """What it has waiting."""
        return self._channel.share

    @property
    def waiting(self) -> int:
        """All that, in bytes."""
        return self._channel.waiting

    def check_room(self, long: bool = False) -> None:
        """Raises OSError if there is no descriptor for a file of this client, which may stay open for `long`.
        """
        check_room(self.server.runtime, self.server.limits, long)

    @property
    def handshake_hint(self) -> str:
        """What a client may be doing wrong that does not register, for a log line."""
        shaken = self._channel.transport.established
        return '' if shaken else ': the TLS handshake did not end; perhaps the client does not use TLS'

    @property
    def connected(self) -> bool:
        """Is there still a connection?"""
        return not self._channel.closed

    @property
    def served(self) -> ServedStorage:
        """The storage that the client has registered for, with all that belongs to it."""
        assert self._served is not None
        return self._served

    @property
    def storage(self) -> Any:
        """The storage itself."""
        return self.served.storage

    @property
    def transactor(self) -> Transactor:
        """The client's transactions."""
        assert self._transactor is not None
        return self._transactor

    @property
    def wants_early_tid(self) -> bool:
        """Z4 clients are told tids at the vote."""
        return self.is_z4

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self._channel.queued

    @property
    def is_ours(self) -> bool:
        """Is the client one of this package?"""
        return self._token is not None

    def optional(self, name: str) -> Any:
        """A method that not every storage has.  Raises Unsupported."""
        method = getattr(self.storage, name, None)
        if method is None:
            raise Unsupported(f'the storage has no {name}')
        return method

    def slow(self, function: Callable[[], Any]) -> Deferred:
        """Have `function` called in a worker thread, after earlier ones of this client."""
        return self.server.workers.run(self, partial(self.served.guard.read, function))

    def run_sync(self, function: Callable[[], object]) -> Deferred:
        """Have `function`, which waits for the disk, called in a worker thread for that."""
        return self.server.syncers.run(self, function)

    def iterate(self, function: Callable[..., Any], *args: Any, long: bool = False) -> Deferred:
        """Have a method of `Iterators` called in a worker thread; `long`: it may read a long way."""
        return self.server.workers.run(self, partial(self._iterators.call, function, *args), long=long)

    def forget_iterators(self, iterator_ids: list[int]) -> None:
        """The client is done with these."""
        known = self._iterators.known(iterator_ids)
        if known:
            self.iterate(Iterators.forget, known)

    def pack(self, time: float) -> Deferred:
        """Pack in a worker thread, then tell all clients; the result is None.

        Raises StorageTransactionError if it is being packed.
        """
        served, done = self.served, Deferred()
        served.start_packing(self.name)
        self._report(logging.INFO, 'packs', '%s: packs storage %r to %s', self.name, served.name, time,
                     burst=BURST)
        work = partial(pack, served.storage, served.guard, time)
        self.server.packers.run(served, work).when_settled(partial(self._packed, served, done))
        served.blobs.pack_begins()
        return done

    def _packed(self, served: ServedStorage, done: Deferred, _: Any,
                error: BaseException | None) -> None:
        served.stop_packing()
        served.blobs.pack_ends()
        if error is not None:
            done.fail(error)
            return
        self._report(logging.INFO, 'packed', '%s: storage %r is packed', self.name, served.name, burst=BURST)
        take_steps(f'the end of packing storage {served.name!r}', served.tell_info,
                   partial(done.succeed, None))

    def report_background(self, name: str, _: Any, error: BaseException | None) -> None:
        """The end of a call whose client does not wait for it."""
        if error is not None:
            self._log(name, error)

    def register(self, storage_id: str, read_only: bool) -> bytes:
        """Join a storage; its last tid."""
        if self._served is not None:
            raise Refused(f'this connection is registered for storage {self._served.name!r} already')
        served = self.server.served.get(storage_id)
        if served is None:
            refusal = f'unknown storage {storage_id!r}; this server has {self._known_storages()}'[:1000]
            self._report(logging.WARNING, 'unknown storage', '%s: refused: %s', self.name, refusal)
            raise Refused(refusal)
        if not read_only and (self.server.read_only or served.storage.isReadOnly()):
            raise ReadOnlyError()
        tid = served.last_tid()
        if tid == z64 and not getattr(served.storage, 'is_connected', lambda: True)():
            raise StorageError(f'storage {storage_id!r} has not found its own server yet')  # C23
        self._core.registered()
        self.read_only = read_only
        self._served = served
        self.reader = served.reader_for(self)
        self._transactor = Transactor(served, self, read_only)
        served.join(self)
        self.server.welcome(self)
        self._report(logging.INFO, 'connected', '%s: connected to storage %r%s, protocol %s', self.name,
                     served.name, ' for reading' if read_only else '', self._core.protocol, burst=BURST)
        return tid

    def _known_storages(self) -> str:
        return ', '.join(map(repr, self.server.served))

    def _report(self, level: int, kind: str, text: str, *args: object, error: BaseException | None = None,
                burst: int = 1) -> None:
        """A log line that the client can have repeated as often as it likes."""
        self.server.throttle.report(log, level, kind, self._origin, text, *args, error=error, burst=burst)

    def identify(self, token: bytes, number: int) -> None:
        """The client is `token`.  Its earlier connection, should there be one, is closed (C11)."""
        if self._token is not None:
            raise Refused('this connection has said who it is already')
        self._token = token
        before = self.served.outcomes.arrive(token, number, self)
        if before is not None:
            before.disconnect('the same client has connected again')

    @property
    def with_rich(self) -> bool:
        """Does the client take values of `rich`?"""
        return self._core.with_rich

    def take_rich_values(self) -> None:
        """It does from now on."""
        self._core.with_rich = self._iterators.with_rich = True

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

    def commit_outcome(self, number: int) -> tuple[str, bytes | None]:
        """What became of the client's transaction `number`."""
        if self._token is None:
            raise Refused('this connection has not said who it is')
        return self.served.outcomes.find(self._token, number)

    def expect_beats(self, interval: float) -> None:
        """The client will be heard of once in `interval` seconds."""
        self._beat_s = max(interval, heartbeat.SHORTEST_S)

    def _stalled_s(self, queued: int, sent: int) -> float:
        """For how long nothing has gone out, seen from the last beats, although something waits."""
        sent_before, since = self._sent_before
        stalled = queued > 0 and sent == sent_before
        return self.server.runtime.monotonic() - since if stalled else 0.0

    def beat(self) -> None:
        """Of the server, every now and then: is the client still there, and is it told that we are (N1)?
        """
        if self._beat_s is not None and self._channel.silence() > heartbeat.PATIENCE * self._beat_s:
            if self._served is not None:
                self._served.stats.silent += 1
            self.disconnect(f'nothing was heard of it for {heartbeat.PATIENCE * self._beat_s:g} s')
        elif (self._channel.unfinished > heartbeat.LARGE_PART
              and self._channel.silence() > heartbeat.STALLED_S):
            self.disconnect(f'it sent {self._channel.unfinished} bytes of a message, and nothing more for '
                            f'{heartbeat.STALLED_S:g} s')
        elif self.registered and not self.is_z4:
            self._channel.keep_alive()
        sent, _, queued = self.traffic
        if not queued or sent != self._sent_before[0]:
            self._sent_before = sent, self.server.runtime.monotonic()

    def set_label(self, label: str) -> None:
        """The client's own name for itself, for log lines."""
        self._label = label = clean_label(label)
        self.name = f'{self._peer} ({label})' if label else self._peer

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent."""
        return self._channel.traffic

    def describe(self) -> dict[str, Any]:
        """Of `Listener`: ``age`` in seconds, ``sent``, ``received`` and ``queued`` in bytes."""
        sent, received, queued = self.traffic
        return {'address': self._peer, 'label': self._label, 'protocol': self._core.protocol,
                'read_only': self.read_only,
                'age': round(self.age_s, 3),
                'loads': self.loads, 'commits': self.commits,
                'sent': sent, 'received': received, 'queued': queued,
                'stalled': round(self._stalled_s(queued, sent), 3),
                'transaction': self.transactor.phase_name}

    # ---- what comes from the client ---------------------------------------------------------------

    def handle_event(self, event: Any) -> Iterator[None] | None:
        """One event; what is left of the work for it, if that takes long.

        Raises ProtocolError for what closes the connection.
        """
        kind = type(event)
        if kind is Call:
            name = event.name
            if name == 'loadBefore':
                self._load(event)
            elif name == 'storea':
                self._store(event)
            elif name == 'tpc_begin':
                self._begin(event)
            else:
                return self._call(event)
        elif kind is Agreed:
            self.is_z4 = event.protocol == 'Z4'
        elif kind is HealthChecked:
            self._channel.send(self._core.health(self.server.ruok()))
            self._channel.close_when_sent()
        elif kind is Administered:
            self._channel.send(self._core.health(self._administer(event.request)))
            self._channel.close_when_sent()
        return None

    def _administer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what the operator at the other end says, if he may."""
        try:
            wish, user = read_wish(request)
            if not self.server.allow_disconnect and not self._channel.is_own_user():
                raise NotDone('this server lets only processes of its own user disconnect clients, through a '
                              'unix socket, unless allow-disconnect is set in <zeo>')
            by = f'the operator ({user}) at {self._peer}'
            return {'disconnected': self.server.disconnect(wish, by)}
        except NotDone as error:
            self._report(logging.WARNING, 'not done', '%s: an operator disconnects nobody: %s', self.name,
                         error, burst=BURST_OF_WARNINGS)
            return {'error': str(error)}

    def _load(self, call: Call) -> None:
        """The call that sites make all the time: the usual form of it, without the general checks."""
        message_id, name, args, oneway = call
        served = self._served
        if oneway or served is None or not is_usual_load(args):
            self._call(call)
            return
        served.stats.loads += 1
        self.loads += 1
        served.hot.recent.append(args[0])
        try:
            revision = self.reader.loadBefore(*args)
        except Exception as error:
            self._send_error(message_id, name, error)
        else:
            self._channel.send(self._core.send_loaded(message_id, revision))

    def _store(self, call: Call) -> None:
        """The call that a large transaction consists of: likewise."""
        _, _, args, oneway = call
        transactor = self._transactor
        if not oneway or transactor is None or not is_usual_store(args):
            self._call(call)
            return
        oid, serial, data, transaction_id = args
        transactor.served.stats.stores += 1
        try:
            transactor.add(transaction_id, _new(Operation, ('store', oid, serial, data, None)))
        except Exception as error:
            self._refuse(call, METHODS['storea'], error)

    def _begin(self, call: Call) -> None:
        """The call that every commit begins with: likewise."""
        _, _, args, oneway = call
        transactor = self._transactor
        if not oneway or transactor is None or not is_usual_begin(args):
            self._call(call)
            return
        try:
            transactor.begin(_new(Meta, args))
        except Exception as error:
            self._refuse(call, METHODS['tpc_begin'], error)
        if self._core.frames.length > SMALL_META or self._meta_size:
            self.count_meta()

    def count_meta(self) -> None:
        """What the message in hand says about a transaction is kept, and what the last one said is not."""
        size = self._core.frames.length
        size = size if size > SMALL_META else 0
        self.share.add(size - self._meta_size)
        self._meta_size = size

    def _call(self, call: Call) -> Iterator[None] | None:
        message_id, name, args, oneway = call
        method = METHODS.get(name) or find(self, name)
        if method is None:
            raise ProtocolError(f'it called {name!r}, which is not a method of this server')
        function, kind, required, checks = method
        if not required <= len(args) <= len(checks):
            raise ProtocolError(f'it called {name} with {len(args)} arguments')
        if oneway and kind is Kind.CALL:
            raise ProtocolError(f'it called {name} one-way, but the answer matters')
        try:
            if len(args) == 1:  # as vote and tpc_finish have
                result = function(self, checks[0](args[0]))
            else:
                result = function(self, *[check(value) for check, value in zip(checks, args, strict=False)])
        except Exception as error:
            self._refuse(call, method, error)
            return None
        if oneway:
            return None
        kind_of_result = type(result)
        if kind_of_result is Deferred:
            if result.settled:
                self._settle(message_id, name, result.value, result.error)
            else:
                size = CALL_OVERHEAD + self._core.frames.length
                self.share.add(size)
                result.when_settled(partial(self._settle_late, size, message_id, name))
        elif kind_of_result is GeneratorType:
            parts = self._in_parts(message_id, name, result)
            for _ in parts:
                return parts  # it was not all done in the first part
        else:
            self._channel.send(self._core.send_reply(message_id, result))
        return None

    def _in_parts(self, message_id: Any, name: str, parts: Any) -> Iterator[None]:
        """What a method has begun; the reply at its end."""
        try:
            value = yield from parts
        except Exception as error:
            self._send_error(message_id, name, error)
        else:
            self._settle(message_id, name, value, None)

    def _refuse(self, call: Call, method: Method, error: Exception) -> None:
        if isinstance(error, BadArgument):
            error = BadArgument(f'{call.name}: {error}')
            if method.kind is Kind.BUFFERED and self.transactor.doom(error):
                if not call.oneway:
                    self._channel.send(self._core.send_reply(call.id, None))
                return
        if call.oneway:
            self._log(call.name, error)
            raise ProtocolError(f'a one-way call of {call.name} failed: {describe(error)}') from error
        self._send_error(call.id, call.name, error)

    # ---- what goes to the client ------------------------------------------------------------------

    def _settle_late(self, size: int, message_id: Any, name: str, value: Any,
                     error: BaseException | None) -> None:
        self.share.add(-size)
        self._settle(message_id, name, value, error)

    def _settle(self, message_id: Any, name: str, value: Any, error: BaseException | None) -> None:
        if error is not None:
            self._send_error(message_id, name, error)
        elif type(value) is marshal.Encoded:
            for piece in self._core.send_encoded(message_id, value):
                self._channel.send(piece)
        else:
            self._channel.send(self._core.send_reply(message_id, value))

    def _log(self, name: str, error: BaseException) -> None:
        if isinstance(error, ORDINARY):
            log.debug('%s: %s: %s', self.name, name, describe(error))
        else:
            self._report(logging.ERROR, f'{name}: {type(error)}', '%s: %s failed', self.name, name,
                         error=error)

    def _send_error(self, message_id: Any, name: str, error: BaseException) -> None:
        self._log(name, error)
        self._channel.send(self._core.send_error(message_id, self._for_wire(error)))

    @staticmethod
    def _for_wire(error: BaseException) -> BaseException:
        """Our own exceptions as those that every client has."""
        if isinstance(error, (BadArgument, Refused)):
            return ValueError(str(error))
        return StorageError(str(error)) if isinstance(error, TooBusy) else error

    def send(self, data: bytes) -> None:
        """The bytes of a message, made once for many clients."""
        if len(data) < LARGE_PIECE:
            self._channel.send(data)
        else:
            self._channel.send_common(data)

    def send_oneway(self, name: str, args: tuple[Any, ...]) -> None:
        """Call a method of the client."""
        self._channel.send(self._core.send_oneway(name, args))

    def queue_oneway(self, name: str, args: tuple[Any, ...]) -> None:
        """Call a method of the client, in a later turn of the loop."""
        self._channel.queue(self._core.send_oneway(name, args))

    def want_room(self) -> None:
        """Go on with downloads and long calls when little output waits."""
        self._channel.want_room()

    def report_vote(self, commit: StorageCommit) -> list[Any] | None:
        """The vote's reply: changed oids, and for a client that has said who it is the tid, by which it finds
        out what happened should the server be restarted (C11); Z4 clients get a list of serials first, and
        None."""
        if not self.is_z4:
            tid = None if self._token is None else commit.coming_tid
            return commit.changed if tid is None else [*commit.changed, {'tid': tid}]
        resolved = set(commit.resolved)
        serials = [(oid, RESOLVED if oid in resolved else commit.tid) for oid in commit.stored]
        self.send_oneway('serialnos', ([*serials, *((oid, RESOLVED) for oid in commit.undone)],))
        return None

    def report_failed_store(self, commit: StorageCommit, error: Exception) -> bool:
        """Z4 clients learn about a store that failed from the list of serials."""
        if not self.is_z4 or commit.failing is None or commit.failing.oid is None:
            return False
        self._log('vote', error)
        instance = faults.z4_error(error)[1]
        message = (0, 1, 'serialnos', ([(commit.failing.oid, instance)],))
        self._channel.send(frame(marshal.dumps(message, exceptions=True)))
        return True

    def handle_room(self) -> None:
        """There is room for more output."""
        self.downloads.go_on()
        self.long_calls.go_on()

    # ---- the end ----------------------------------------------------------------------------------

    def disconnect(self, reason: str, level: int = logging.WARNING) -> None:
        """Close the connection."""
        self._channel.lose(reason, level)

    def expel(self, by: str) -> None:
        """An operator wants this client to go."""
        self._report(logging.WARNING, 'expelled', '%s: disconnected by %s', self.name, by, burst=BURST)
        self._channel.lose(f'by {by}', logging.DEBUG)

    def handle_lost(self, reason: str, level: int) -> None:
        """The connection has gone: the same clean-up, whoever closed it (C16)."""
        if not self.registered and level <= logging.INFO:
            level = logging.DEBUG  # health checks and port scans (N9)
        # Others wait for the commit lock: it comes first.
        steps = [] if self._transactor is None else [self._transactor.close]
        steps.append(partial(self._report, level, f'disconnected {level}', '%s: disconnected: %s', self.name,
                             reason, burst=BURST_OF_WARNINGS if level > logging.INFO else BURST))
        if self._served is not None:
            steps.append(partial(self._served.part, self))
            if self._token is not None:
                steps.append(partial(self._served.outcomes.leave, self._token, self))
        take_steps(f'the end of {self.name}', *steps, partial(self.server.forget, self), self.downloads.close,
                   self.long_calls.close, self._iterators.close)
