"""The sans-I/O core of a connection: bytes in, events out; calls in, bytes out.

No socket, no thread, no clock.  A core knows how far the conversation has come (a state, moved by one
table), what the peer may send in that state, and, on the client's side, which calls wait for a reply.
It does not know what a method means.  A `ProtocolError` out of any method here means: close.
"""
from __future__ import annotations

import enum
import itertools
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ZODB.POSException import StorageError

from zeo_clone.Exceptions import MessageTooLarge, ProtocolError
from zeo_clone.zrpc import faults, marshal, messages
from zeo_clone.zrpc.frames import DEFAULT_LIMIT, LENGTH, MAX_FRAME, STRANGER_LIMIT, FrameReader, frame

#: Protocols we serve and the one we speak as a client, newest last.
SERVER_PROTOCOLS = ('Z4', 'Z5')
CLIENT_PROTOCOL = 'Z5'
#: Methods that may be called before ``register``.
STRANGER_METHODS = frozenset({'register', 'getAuthProtocol'})
#: What a health check sends instead of a protocol name.
HEALTH_CHECK = b'ruok'
#: ... and an operator, with JSON behind it: a dict.
ADMIN = b'admin '
#: Message ids start over here, so that they stay within 31 bits.
MAX_ID = 0x7fffffff
#: Calls of one connection that may wait for a reply at the same time.
MAX_PENDING = 100_000
#: What a client takes before it is registered: a tid, or an error with its text ...
OPENING_LIMIT = 64 << 10
#: ... of the server's own accord: six million oids that one transaction wrote, a part of a blob ...
NOTICE_LIMIT = 64 << 20
#: ... and in reply to what it asks while its cache is verified: all oids written since.
VERIFICATION_LIMIT = 256 << 20
#: What a message has besides its record, at most.
RECORD_OVERHEAD = 200


class State(enum.Enum):
    """How far a connection has come."""

    GREETING = enum.auto()    # the peer's protocol name is awaited
    STRANGER = enum.auto()    # protocol agreed; register has not been answered yet
    OPEN = enum.auto()
    CHECKED = enum.auto()     # a health check: answered, to be closed
    CLOSED = enum.auto()


class Move(enum.Enum):
    """What can happen to a connection as a whole."""

    AGREE = enum.auto()
    CHECK = enum.auto()
    REGISTER = enum.auto()
    CLOSE = enum.auto()


_GREETING, _STRANGER, _OPEN = State.GREETING, State.STRANGER, State.OPEN  # looked up for each message

#: A missing entry is an illegal move.
TABLE = {
    (State.GREETING, Move.AGREE): State.STRANGER,
    (State.GREETING, Move.CHECK): State.CHECKED,
    (State.STRANGER, Move.REGISTER): State.OPEN,
    (State.GREETING, Move.CLOSE): State.CLOSED,
    (State.STRANGER, Move.CLOSE): State.CLOSED,
    (State.OPEN, Move.CLOSE): State.CLOSED,
    (State.CHECKED, Move.CLOSE): State.CLOSED,
    (State.CLOSED, Move.CLOSE): State.CLOSED,
}


class Agreed(NamedTuple):
    """Event: both sides speak `protocol` from now on."""

    protocol: str


class HealthChecked(NamedTuple):
    """Event, server: a health check asks how the server is; answer with `Core.health`, then close."""


class Administered(NamedTuple):
    """Event, server: an operator wants something; answer with `Core.health`, then close."""

    request: dict[str, Any]


class Call(NamedTuple):
    """Event: the peer calls `name`.  ``id`` is to be echoed in the reply."""

    id: Any
    name: str
    args: tuple[Any, ...]
    oneway: bool


class Changes(NamedTuple):
    """Event, client: what one or several notices in a row tell of transactions, ``(tid, oids)`` each."""

    changes: list[messages.Change]


class Result(NamedTuple):
    """Event, client: the call sent with `token` returned `value`."""

    token: Any
    value: Any


class Failure(NamedTuple):
    """Event, client: the call sent with `token` raised `error` on the server."""

    token: Any
    error: Exception


Event = Agreed | HealthChecked | Administered | Call | Changes | Result | Failure
_NOTICE = messages.NOTICE.constants[0]
_new = tuple.__new__  # makes a NamedTuple in a third of the time


class Core:
    """What both sides share: state, frames, limits."""

    #: A message of more bytes is decoded in parts; there is no such one where nobody else has to be served.
    _large = sys.maxsize

    def __init__(self, frames: FrameReader) -> None:
        self.state = State.GREETING
        self.protocol = ''
        self.frames = frames

    def __repr__(self) -> str:
        return f'<{type(self).__name__} {self.protocol} {self.state.name}>'

    def move(self, move: Move) -> None:
        """The one function that changes the state."""
        try:
            self.state = TABLE[self.state, move]
        except KeyError:
            raise ProtocolError(f'{move.name} is not possible in state {self.state.name}') from None

    def close(self) -> None:
        """No bytes are taken or made any more."""
        self.move(Move.CLOSE)
        self.frames.forget()

    def receive_data(self, data: bytes) -> Iterator[Event | None]:
        """The events that `data` completes, in order, each decoded when it is asked for.

        On a server's side with None after each millisecond of work at a large message.

        Raises `ProtocolError` at the first fault, after the events before it: close the connection.
        """
        decode, message, large = messages.decode, self._message, self._large
        for content in self.frames.feed(data):
            state = self.state
            if state is _OPEN or state is _STRANGER:
                event = message(decode(content) if len(content) <= large
                                else (yield from messages.decode_in_parts(content)))
                if event is not None:
                    yield event
            elif state is _GREETING:
                yield self._greeting(content)
            else:
                raise ProtocolError(f'data after the end ({self.state.name})')

    @property
    def in_bulk(self) -> bool:
        """Is a large message under way?"""
        return self.frames.is_large

    def _greeting(self, content: bytes) -> Event:
        raise NotImplementedError

    def _message(self, message: messages.Message) -> Event | None:
        raise NotImplementedError

    def send_oneway(self, name: str, args: tuple[Any, ...]) -> bytes:
        """The bytes of a one-way call."""
        return frame(messages.encode_oneway(name, args))

    def send_keep_alive(self) -> bytes:
        """The bytes of a message that the peer ignores."""
        return frame(messages.KEEP_ALIVE)


class ServerCore(Core):
    """The server's side: offers its newest protocol, takes calls, makes replies.

    `limit` is that of a message of a registered client, `reply_limit` that of a reply.  An object that is
    there already can be sent although it is larger than what would be taken (N19).
    """

    _large = messages.LARGE

    def __init__(self, limit: int = DEFAULT_LIMIT, reply_limit: int = MAX_FRAME) -> None:
        super().__init__(FrameReader(STRANGER_LIMIT, key='frame-limit'))
        self._limit = limit
        self._reply_limit = min(reply_limit, MAX_FRAME)
        self.with_rich = False  # the client has said that it takes values of `rich`

    def greet(self) -> bytes:
        """The first bytes that a server sends."""
        return frame(SERVER_PROTOCOLS[-1].encode('ascii'))

    def _greeting(self, content: bytes) -> Event:
        if content == HEALTH_CHECK:
            self.move(Move.CHECK)
            return HealthChecked()
        if content.startswith(ADMIN):
            self.move(Move.CHECK)
            return Administered(_read_json(content[len(ADMIN):]))
        protocol = content[:16].decode('latin-1')
        if protocol not in SERVER_PROTOCOLS:
            raise ProtocolError(f'the client chose the protocol {protocol!r}; '
                                f'this server speaks {" and ".join(SERVER_PROTOCOLS)}')
        self.protocol = protocol
        self.move(Move.AGREE)
        return Agreed(protocol)

    def _message(self, message: messages.Message) -> Event | None:
        message_id, flag, name, args = message
        if name == messages.REPLY:
            if message_id == messages.KEEP_ALIVE_ID:
                return None
            raise ProtocolError('a reply, but a server calls nothing that is answered')
        if self.state is _STRANGER and name not in STRANGER_METHODS:
            raise ProtocolError(f'{name!r} was called before register')
        return _new(Call, (message_id, name, args, bool(flag)))

    def registered(self) -> None:
        """The client is no stranger any more: all methods, large frames."""
        self.move(Move.REGISTER)
        self.frames.limit = self._limit

    def send_reply(self, message_id: Any, value: Any) -> bytes:
        """The bytes of a reply.  A value that cannot be encoded is answered by an error (S3)."""
        try:
            content = messages.encode_reply(message_id, value, self.with_rich)
        except marshal.ENCODE_ERRORS as error:
            return self.send_error(message_id, TypeError(f'the result cannot be sent: {error}'))
        if len(content) > self._reply_limit:
            return self._send_too_large(message_id, len(content))
        return frame(content)

    def send_encoded(self, message_id: Any, value: marshal.Encoded) -> list[bytes]:
        """`send_reply` for a value that is encoded already; in pieces, so that a large one is not copied."""
        pieces = messages.encode_encoded(message_id, value)
        size = sum(map(len, pieces))
        if size > self._reply_limit:
            return [self._send_too_large(message_id, size)]
        return [LENGTH.pack(size), *pieces]

    def send_loaded(self, message_id: Any, revision: Any) -> bytes:
        """`send_reply` for the result of loadBefore, faster."""
        try:
            content = messages.encode_loaded(message_id, revision)
        except marshal.ENCODE_ERRORS:
            return self.send_reply(message_id, revision)
        if len(content) > self._reply_limit:
            return self._send_too_large(message_id, len(content))
        return frame(content)

    def _send_too_large(self, message_id: Any, size: int) -> bytes:
        return self.send_error(message_id, StorageError(
            f'the answer has {size} bytes; no more than {self._reply_limit} may wait for all clients '
            f"together.  Raise memory-limit in the server's <zeo> section"))

    def send_error(self, message_id: Any, error: BaseException) -> bytes:
        """The bytes of an error reply, in the form of the client's protocol."""
        if self.protocol == 'Z4':
            return frame(marshal.dumps((message_id, 0, messages.REPLY, faults.z4_error(error)),
                                       exceptions=True))
        return frame(messages.encode_error(message_id, *faults.to_wire(error)))

    def health(self, status: dict[str, Any]) -> bytes:
        """The bytes that answer a health check or an operator."""
        return frame(json.dumps(status).encode('ascii'))


def _read_json(content: bytes) -> dict[str, Any]:
    """A stranger's dict; it fits into `STRANGER_LIMIT`."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        value = None
    if type(value) is not dict:
        raise ProtocolError('an operator has said something that is no JSON object')
    return value


class ClientCore(Core):
    """The client's side: answers the greeting, numbers calls, pairs replies with them.

    What the server may send depends on what it was asked for (S17); `limit` is that of a reply to a client
    that is ready.  An object may be as large as the protocol can carry.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        super().__init__(FrameReader(STRANGER_LIMIT, self._longest))
        self._limit = limit
        self.reply_limit = min(VERIFICATION_LIMIT, limit)
        self.send_limit = MAX_FRAME  # of what the server takes
        self._ids = itertools.count(1)
        self._pending: dict[int, Any] = {}  # single operations on it are atomic
        self._answered: Any = None  # the token of the last reply

    @property
    def pending(self) -> int:
        """How many calls wait for a reply."""
        return len(self._pending)

    def receive_data(self, data: bytes) -> Iterator[Event | None]:
        """As `Core`; many notices may come in one piece."""
        if self.state is _OPEN and not self.frames.partial and data.startswith(_NOTICE, LENGTH.size):
            changes, end = messages.decode_notices(data, self.frames.limit)
            if changes:
                yield Changes(changes)
            if end == len(data):
                return
            data = data[end:]
        yield from super().receive_data(data)

    def _greeting(self, content: bytes) -> Event:
        offer = content[:16].decode('latin-1')
        if offer[:1] != 'Z' or not offer[1:].isdecimal():
            raise ProtocolError(f'the server offers the protocol {offer!r}; this client speaks '
                                f'{CLIENT_PROTOCOL}. Is a ZEO server listening there, without msgpack '
                                f'and without TLS?')
        if int(offer[1:]) < int(CLIENT_PROTOCOL[1:]):
            raise ProtocolError(f'the server speaks {offer!r} only: servers older than ZEO 5 may send '
                                f'loads and invalidations in different orders, so that this client '
                                f'could see stale data. Use a newer server')
        self.protocol = CLIENT_PROTOCOL
        self.move(Move.AGREE)
        self.frames.limit = min(OPENING_LIMIT, self._limit)
        return Agreed(CLIENT_PROTOCOL)

    def send_hello(self) -> bytes:
        """The bytes that answer the server's greeting."""
        return frame(self.protocol.encode('ascii'))

    def registered(self) -> None:
        """The server has answered ``register``."""
        self.move(Move.REGISTER)
        self.frames.limit = min(NOTICE_LIMIT, self._limit)

    def verified(self, send_limit: int) -> None:
        """The client is ready for all calls; the server takes messages of at most `send_limit` bytes."""
        self.reply_limit = self._limit
        self.send_limit = min(send_limit, MAX_FRAME)

    def _longest(self) -> int:
        """How long a frame may be, if it is longer than usual."""
        return self.reply_limit if self._pending and self.state is _OPEN else self.frames.limit

    def _check_size(self, content: bytes) -> bytes:
        if len(content) > self.send_limit:
            raise MessageTooLarge(_too_large('the message', len(content), self.send_limit))
        return content

    def send_oneway(self, name: str, args: tuple[Any, ...]) -> bytes:
        """The bytes of a one-way call.  Raises `MessageTooLarge`."""
        return frame(self._check_size(messages.encode_oneway(name, args)))

    def send_call(self, name: str, args: tuple[Any, ...], token: Any) -> bytes:
        """The bytes of a call; its `Result` or `Failure` will carry `token`.

        Raises TypeError or ValueError if `args` cannot be encoded, `MessageTooLarge`; then nothing waits.
        """
        message_id = self._next_id()
        content = self._check_size(messages.encode_call(message_id, name, args))
        self._pending[message_id] = token
        return frame(content)

    def send_load(self, oid: bytes, tid: bytes, token: Any) -> bytes:
        """`send_call` for loadBefore, faster.  `oid` and `tid` are 8 bytes."""
        message_id = self._next_id()
        content = messages.encode_load(message_id, oid, tid)
        self._pending[message_id] = token
        return frame(content)

    def send_store(self, oid: bytes, serial: bytes, data: bytes, transaction_id: int) -> bytes:
        """`send_oneway` of storea, faster.  `oid` and `serial` are 8 bytes, the id has 31 bits."""
        if len(data) + RECORD_OVERHEAD > self.send_limit:
            self.check_record(oid, data)
        return frame(messages.encode_store(oid, serial, data, transaction_id))

    def check_record(self, oid: bytes, data: bytes) -> None:
        """Raises `MessageTooLarge` if the server does not take this object."""
        if len(data) + RECORD_OVERHEAD > self.send_limit:
            raise MessageTooLarge(_too_large(f'object {oid.hex()}', len(data), self.send_limit))

    def _next_id(self) -> int:
        message_id = next(self._ids)
        if message_id >= MAX_ID:
            self._ids = itertools.count(1)
        if len(self._pending) >= MAX_PENDING:
            raise ProtocolError(f'{MAX_PENDING} calls wait for a reply already')
        return message_id

    def _message(self, message: messages.Message) -> Event | None:
        message_id, flag, name, args = message
        if name != messages.REPLY:
            if not flag:
                raise ProtocolError(f'the server calls {name!r} and waits for a reply')
            return _new(Call, (None, name, args, True))
        if message_id == messages.KEEP_ALIVE_ID:
            return None
        try:
            # In this order, so that a signal's exception finds it here or there.
            self._answered = token = self._pending[message_id]
            del self._pending[message_id]
        except KeyError:
            raise ProtocolError(f'a reply to call {message_id!r}, which does not wait') from None
        if flag != messages.ERROR_FLAG:
            return _new(Result, (token, args))
        if type(args) is not tuple or len(args) != 2 or type(args[0]) is not str:
            raise ProtocolError('an error reply is not a class name with a state')
        return Failure(token, faults.from_wire(*args))

    def abandon(self) -> Iterator[Any]:
        """The tokens of all calls that will get no reply any more, oldest first; before them that of the last
        reply, whose `Result` or `Failure` may not have been processed.  Each is forgotten when the next is
        asked for."""
        if self._answered is not None:
            yield self._answered
            self._answered = None
        while self._pending:
            for message_id in sorted(self._pending):
                token = self._pending.get(message_id)
                if token is not None:
                    yield token
                self._pending.pop(message_id, None)


def _too_large(what: str, size: int, limit: int) -> str:
    return (f'{what} has {size} bytes and is too large: the server takes messages of at most {limit} bytes. '
            f'Raise frame-limit in its <zeo> section, or keep large data in a blob or in several objects')
