"""A session: the server's side of one connection, from its first byte to its end.

In: what the client says, as events of its `ServerCore`.  Out: replies and errors, exactly one to each call,
now or later (`Calls`); ProtocolError for what closes the connection; one log line when something is refused.
A client that has not registered is a `Newcomer`, one that has a `Member` of the storage: these have the
methods that can be called.  When the session ends, whoever ended it and why, `handle_lost` cleans everything
up (C16).  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

from transaction.interfaces import TransientError
from ZODB.POSException import POSError, ReadOnlyError, StorageError
from ZODB.utils import z64

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.server.clients.heartbeat import Pulse
from zeo_clone.server.clients.member import Member
from zeo_clone.server.clients.methods import NEWCOMERS
from zeo_clone.server.clients.operator import NotDone, read_wish
from zeo_clone.server.clients.peer import BURST, BURST_OF_WARNINGS, Peer
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import BadArgument, Kind, Method, Refused, TooBusy
from zeo_clone.steps import take_steps
from zeo_clone.zrpc import marshal
from zeo_clone.zrpc.channel.server import ServerChannel, describe
from zeo_clone.zrpc.connection import Administered, Agreed, Call, HealthChecked

if TYPE_CHECKING:
    from zeo_clone.server.served import ServedStorage
    from zeo_clone.server.server import StorageServer

log = logging.getLogger(__name__)

#: What a call costs that is answered later, besides its arguments.
CALL_OVERHEAD = 500
#: Exceptions that belong to ordinary work: the client gets them, the log has them at DEBUG (L4).
ORDINARY = (POSError, KeyError, Refused, BadArgument, TransientError, TooBusy)


class Callee(Protocol):
    """The end of a connection whose methods are called."""

    def find(self, name: str) -> Method | None:
        """A method that is in no table."""

    def doom(self, error: Exception) -> bool:
        """An operation was bad: remember that until the vote.  False if there is nothing to doom."""


class Calls:
    """The calls of the client `peer` at the end of `channel`: for each exactly one reply (S3).

    Finds the method, checks the arguments, answers now or later, in the words of the client's protocol.  It
    knows no storage: what a method does is its own business.
    """

    def __init__(self, channel: ServerChannel, peer: Peer) -> None:
        self._channel = channel
        self._core = channel.core
        self._share = channel.share
        self._peer = peer

    def __repr__(self) -> str:
        return f'<Calls of {self._peer!r}>'

    def answer(self, callee: Callee, call: Call, method: Method | None) -> Iterator[None] | None:
        """Carry out `call`; what is left of the work for it, if that takes long."""
        message_id, name, args, oneway = call
        if method is None:
            raise ProtocolError(f'it called {name!r}, which is not a method of this server')
        function, kind, required, checks, _ = method
        if not required <= len(args) <= len(checks):
            raise ProtocolError(f'it called {name} with {len(args)} arguments')
        if oneway and kind is Kind.CALL:
            raise ProtocolError(f'it called {name} one-way, but the answer matters')
        try:
            if len(args) == 1:  # as vote and tpc_finish have
                result = function(callee, checks[0](args[0]))
            else:
                result = function(callee, *[check(value) for check, value in zip(checks, args, strict=False)])
        except Exception as error:
            self.refuse(callee, call, kind, error)
            return None
        if oneway:
            return None
        kind_of_result = type(result)
        if kind_of_result is Deferred:
            self.answer_with(message_id, name, result)
        elif kind_of_result is GeneratorType:
            parts = self._in_parts(message_id, name, result)
            for _ in parts:
                return parts  # it was not all done in the first part
        else:
            self._channel.reply(message_id, result)
        return None

    def answer_with(self, message_id: Any, name: str, result: Deferred) -> None:
        """Answer with `result`, now or when it is there."""
        if result.settled:
            self._reply(message_id, name, result.value, result.error)
        else:
            size = CALL_OVERHEAD + self._core.frames.length
            self._share.add(size)
            result.when_settled(partial(self._reply_late, size, message_id, name))

    def answer_loaded_with(self, message_id: Any, name: str, result: Deferred) -> None:
        """`answer_with` for the result of loadBefore, faster."""
        size = CALL_OVERHEAD + self._core.frames.length
        self._share.add(size)
        result.when_settled(partial(self._loaded_late, size, message_id, name))

    def _loaded_late(self, size: int, message_id: Any, name: str, revision: Any,
                     error: BaseException | None) -> None:
        self._share.add(-size)
        if error is None:
            self._channel.reply_loaded(message_id, revision)
        else:
            self.fail(message_id, name, error)

    def _in_parts(self, message_id: Any, name: str, parts: Any) -> Iterator[None]:
        """Do what a method has begun, part by part; the reply comes at its end."""
        try:
            value = yield from parts
        except Exception as error:
            self.fail(message_id, name, error)
        else:
            self._reply(message_id, name, value, None)

    def _reply_late(self, size: int, message_id: Any, name: str, value: Any,
                    error: BaseException | None) -> None:
        self._share.add(-size)
        self._reply(message_id, name, value, error)

    def _reply(self, message_id: Any, name: str, value: Any, error: BaseException | None) -> None:
        if error is not None:
            self.fail(message_id, name, error)
        elif type(value) is marshal.Encoded:
            self._channel.reply_encoded(message_id, value)
        else:
            self._channel.reply(message_id, value)

    def refuse(self, callee: Callee, call: Call, kind: Kind, error: Exception) -> None:
        """The call failed before there was anything to wait for."""
        if isinstance(error, BadArgument):
            error = BadArgument(f'{call.name}: {error}')
            if kind is Kind.BUFFERED and callee.doom(error):
                if not call.oneway:
                    self._channel.reply(call.id, None)
                return
        if call.oneway:
            self.log(call.name, error)
            raise ProtocolError(f'a one-way call of {call.name} failed: {describe(error)}') from error
        self.fail(call.id, call.name, error)

    def fail(self, message_id: Any, name: str, error: BaseException) -> None:
        """The reply is an error."""
        self.log(name, error)
        self._channel.fail(message_id, _for_wire(error))

    def log(self, name: str, error: BaseException) -> None:
        """A call of `name` has failed."""
        if isinstance(error, ORDINARY):
            log.debug('%s: %s: %s', self._peer.name, name, describe(error))
        else:
            self._peer.report(logging.ERROR, f'{name}: {type(error)}', '%s: %s failed', self._peer.name, name,
                              error=error)


def _for_wire(error: BaseException) -> BaseException:
    """Our own exceptions as those that every client has."""
    if isinstance(error, (BadArgument, Refused)):
        return ValueError(str(error))
    return StorageError(str(error)) if isinstance(error, TooBusy) else error


class Newcomer:
    """A client that has not registered for a storage yet."""

    methods = NEWCOMERS

    def __init__(self, session: Session) -> None:
        self._session = session

    def __repr__(self) -> str:
        return f'<Newcomer {self._session.name}>'

    def register(self, storage_id: str, read_only: bool) -> Any:
        """Join a storage; its last tid, which Z4 clients do not expect."""
        return self._session.register(storage_id, read_only)

    def find(self, name: str) -> Method | None:
        """There are no others."""
        return None

    def doom(self, error: Exception) -> bool:
        """There is nothing to doom."""
        return False


class Session:
    """One client, from its connection to its end."""

    def __init__(self, server: StorageServer, channel: ServerChannel, address: str) -> None:
        self.server = server
        self.channel = channel
        self.peer = Peer(address, server.throttle)
        self.calls = Calls(channel, self.peer)
        self.pulse = Pulse(channel, server.runtime.monotonic, self.disconnect)
        self.is_z4 = False
        self._came = server.runtime.monotonic()
        self._client: Newcomer | Member = Newcomer(self)

    def __repr__(self) -> str:
        return f'<Session {self._client!r}>'

    # ---- what the server asks -----------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Peer and label, for log lines."""
        return self.peer.name

    @property
    def member(self) -> Member | None:
        """Who the client is in its storage, if it has one."""
        client = self._client
        return client if isinstance(client, Member) else None

    @property
    def age_s(self) -> float:
        """For how long the client has been here."""
        return self.server.runtime.monotonic() - self._came

    @property
    def has_spoken(self) -> bool:
        """Has anything come from it?"""
        return self.channel.transport.received > 0

    @property
    def waiting(self) -> int:
        """All that it has waiting, in bytes."""
        return self.channel.waiting

    @property
    def handshake_hint(self) -> str:
        """What a client may be doing wrong that does not register, for a log line."""
        shaken = self.channel.transport.established
        return '' if shaken else ': the TLS handshake did not end; perhaps the client does not use TLS'

    def beat(self) -> None:
        """Called by the server now and then: is the client still there, and told that we are (N1)?"""
        member = self.member
        self.pulse.look(answers=member is not None and not self.is_z4,
                        stats=None if member is None else member.stats)

    # ---- what comes from the client ---------------------------------------------------------------

    def handle_event(self, event: Any) -> Iterator[None] | None:
        """One event; what is left of the work for it, if that takes long.

        Raises ProtocolError for what closes the connection.
        """
        kind = type(event)
        if kind is Call:
            client = self._client
            method = client.methods.get(event.name)
            if method is None:
                method = client.find(event.name)
            elif method.usual is not None and method.usual(client, event):
                return None
            return self.calls.answer(client, event, method)
        if kind is Agreed:
            self.is_z4 = event.protocol == 'Z4'
        elif kind is HealthChecked:
            self.channel.tell_health(self.server.ruok())
        elif kind is Administered:
            self.channel.tell_health(self._administer(event.request))
        return None

    def register(self, storage_id: str, read_only: bool) -> Any:
        """Join a storage; its last tid, which Z4 clients do not expect.  Perhaps later."""
        served = self.server.served.get(storage_id)
        if served is None:
            known = ', '.join(map(repr, self.server.served))
            refusal = f'unknown storage {storage_id!r}; this server has {known}'[:1000]
            self.peer.report(logging.WARNING, 'unknown storage', '%s: refused: %s', self.name, refusal)
            raise Refused(refusal)
        if not read_only and (self.server.read_only or served.backend.is_read_only):
            raise ReadOnlyError()
        if self.is_z4 and not served.takes_z4:
            raise Refused(f'storage {storage_id!r} is in a database, where a transaction gets its tid when '
                          f'it is finished: clients of ZEO 4, which want it at the vote, cannot use it')
        return served.when_fresh(partial(self._join, storage_id, served, read_only))

    def _join(self, storage_id: str, served: ServedStorage, read_only: bool) -> bytes | None:
        if self.channel.closed or self.member is not None:
            raise Refused('the connection has gone, or has registered already')
        tid = served.audience.last_tid()
        if tid == z64 and not served.backend.is_connected:
            raise StorageError(f'storage {storage_id!r} has not found its own server yet')  # C23
        self.channel.core.registered()
        member = Member(self, served, read_only)
        self._client = member
        served.audience.join(member)
        self.server.welcome(self)
        self.peer.report(logging.INFO, 'connected', '%s: connected to storage %r%s, protocol %s', self.name,
                         served.name, ' for reading' if read_only else '', self.channel.core.protocol,
                         burst=BURST)
        return None if self.is_z4 else tid

    def _administer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what the operator at the other end says, if he may."""
        try:
            wish, user = read_wish(request)
            if not self.server.allow_disconnect and not self.channel.is_own_user():
                raise NotDone('this server lets only processes of its own user disconnect clients, through a '
                              'unix socket, unless allow-disconnect is set in <zeo>')
            by = f'the operator ({user}) at {self.peer.address}'
            return {'disconnected': self.server.disconnect(wish, by)}
        except NotDone as error:
            self.peer.report(logging.WARNING, 'not done', '%s: an operator disconnects nobody: %s', self.name,
                             error, burst=BURST_OF_WARNINGS)
            return {'error': str(error)}

    def handle_room(self) -> None:
        """There is room for more output."""
        if self.member is not None:
            self.member.handle_room()

    # ---- the end ----------------------------------------------------------------------------------

    def disconnect(self, reason: str, level: int = logging.WARNING) -> None:
        """Close the connection."""
        self.channel.lose(reason, level)

    def handle_lost(self, reason: str, level: int) -> None:
        """The connection has gone: the same clean-up, whoever closed it (C16)."""
        member = self.member
        if member is None and level <= logging.INFO:
            level = logging.DEBUG  # health checks and port scans (N9)
        # Others wait for the commit lock: it comes first.
        steps: list[Callable[[], object]] = [] if member is None else [member.transactor.close]
        steps.append(partial(self.peer.report, level, f'disconnected {level}', '%s: disconnected: %s',
                             self.name, reason, burst=BURST_OF_WARNINGS if level > logging.INFO else BURST))
        if member is not None:
            steps += member.leave()
        steps.append(partial(self.server.forget, self))
        if member is not None:
            steps += member.end()
        take_steps(f'the end of {self.name}', *steps)
