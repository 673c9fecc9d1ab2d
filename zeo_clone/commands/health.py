"""Ask a server how it does: the `ruok` conversation, which needs no storage and leaves nothing in its log.
Or, in the same way, have it do something.

In: an address, a time-out, perhaps TLS.  Out: ``{storage id: server_status}``, or `NoAnswer` with one line
that says what is wrong.  Blocks the calling thread, never longer than the time-out; a thread of its own
resolves names, because that cannot be cut short.  It knows nothing but frames of the protocol.
"""
from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from zeo_clone.addresses import Address, format_address
from zeo_clone.commands.tlsoptions import TLS
from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.runtime import AF_UNIX, IN_PROGRESS, REAL, Endpoint, Runtime
from zeo_clone.loop.tls import TLSTransport
from zeo_clone.loop.transport import Transport
from zeo_clone.wording import format_seconds, quoted
from zeo_clone.zrpc.frames import STRANGER_LIMIT, FrameReader, frame

#: The answer of a server with some thousand storages fits into this.
MAX_ANSWER = 64 << 20
#: A server says its protocol first, a letter and digits.
MAX_GREETING = 16

MUTE = ': connected, but it says nothing; perhaps it expects TLS, is no ZEO server, or hangs'
NO_HANDSHAKE = ': connected, but the TLS handshake does not end; does a server with TLS listen there?'

Status = dict[str, dict[str, Any]]


class NoAnswer(Exception):
    """The server could not be reached, or did not say how it does; one line that says why."""


class Refused(Exception):
    """The server did nothing; one line that says why."""


class _Question(NamedTuple):
    """What is sent after the greeting, how the answer is read, and what it means if there is none."""

    content: bytes
    read: Callable[[bytes], Any]
    silence: str


class _Deadline:
    """A point in time, `timeout_s` seconds from its making."""

    def __init__(self, timeout_s: float, runtime: Runtime) -> None:
        self._runtime = runtime
        self._timeout_s = timeout_s
        self.doing = ''  # what is waited for, for the complaint
        self._end = runtime.monotonic() + timeout_s

    def left(self) -> float:
        """Seconds left, more than 0.  Raises `NoAnswer` when there are none."""
        left = self._end - self._runtime.monotonic()
        if left <= 0:
            raise NoAnswer(f'no answer within {format_seconds(self._timeout_s)}{self.doing}')
        return left


def ask(address: Address, timeout_s: float, tls: TLS | None = None, runtime: Runtime = REAL) -> Status:
    """What the server at `address` says about each of its storages.  Raises `NoAnswer`."""
    question = _Question(b'ruok', _read_status, 'it closed the connection without an answer: perhaps it has '
                         'no room for more connections, or is no ZEO server; look at its log')
    status: Status = _ask(question, address, timeout_s, tls, runtime)
    return status


def disconnect(address: Address, client: str, storage: str | None, by: str, timeout_s: float,
               tls: TLS | None = None, runtime: Runtime = REAL) -> str:
    """Have the server at `address` disconnect a client, an address or a label or ``holder``, whose name is
    returned.  `by`: what the user is called.  Raises `NoAnswer` and `Refused`."""
    wish = {'disconnect': client, 'by': by} if storage is None else {
        'disconnect': client, 'by': by, 'storage': storage}
    content = b'admin ' + json.dumps(wish).encode()
    if len(content) > STRANGER_LIMIT:
        raise Refused('no client has so long a name')
    question = _Question(content, _read_done,
                         'it closed the connection without an answer: probably it is an older server, or '
                         'one of ZEO, which cannot disconnect clients')
    answer: dict[str, str] = _ask(question, address, timeout_s, tls, runtime)
    if 'disconnected' not in answer:
        raise Refused(answer['error'])
    return answer['disconnected']


def _ask(question: _Question, address: Address, timeout_s: float, tls: TLS | None, runtime: Runtime) -> Any:
    deadline = _Deadline(timeout_s, runtime)
    try:
        return _ask_any(question, address, tls, deadline, runtime)
    except NoAnswer as error:
        raise NoAnswer(f'{format_address(address)}: {error}') from None


def _ask_any(question: _Question, address: Address, tls: TLS | None, deadline: _Deadline,
             runtime: Runtime) -> Any:
    host = None if isinstance(address, str) else address[0] or 'localhost'
    complaint = 'the host has no address'
    for endpoint in _endpoints(address, deadline, runtime):
        found = _try(question, endpoint, host, tls, deadline, runtime)
        if not isinstance(found, str):
            return found
        complaint = found
    raise NoAnswer(complaint)


def _try(question: _Question, endpoint: Endpoint, host: str | None, tls: TLS | None, deadline: _Deadline,
         runtime: Runtime) -> Any:
    """The answer, or what is wrong with this one of the host's addresses."""
    try:
        return _ask_one(question, endpoint, host, tls, deadline, runtime)
    except (OSError, ValueError, ProtocolError) as error:  # ValueError: TLS without a host name
        return ' '.join(str(getattr(error, 'strerror', None) or error).split())


def _endpoints(address: Address, deadline: _Deadline, runtime: Runtime) -> list[Endpoint]:
    if isinstance(address, str):
        if AF_UNIX is None:
            raise NoAnswer('this system has no unix sockets; use HOST:PORT')
        return [Endpoint(AF_UNIX, address)]
    host, port = address
    found: list[Endpoint] = []
    errors: list[Exception] = []
    done = runtime.event()

    def resolve() -> None:
        try:
            found.extend(runtime.resolve(host or 'localhost', port))
        except (OSError, UnicodeError) as error:
            errors.append(error)
        done.set()

    runtime.start_thread(resolve, 'zeo_clone name resolution')
    done.wait(deadline.left())
    deadline.left()
    if errors:
        raise NoAnswer(f'the name cannot be resolved: {getattr(errors[0], "strerror", errors[0])}')
    return found


def _ask_one(question: _Question, endpoint: Endpoint, host: str | None, tls: TLS | None, deadline: _Deadline,
             runtime: Runtime) -> Any:
    deadline.doing = ''
    with contextlib.closing(runtime.socket(endpoint.family)) as sock:
        code = sock.connect_ex(endpoint.sockaddr)
        if code in IN_PROGRESS:
            _wait(sock.fileno(), False, True, deadline, runtime)
            code = runtime.connect_error(sock)
        if code:
            raise OSError(code, os.strerror(code))
        if tls is None:
            transport = Transport(sock, runtime)
        else:
            transport = TLSTransport(sock, runtime, tls.context, server_side=False,
                                     server_hostname=tls.hostname or host)
        return _converse(question, transport, deadline, runtime)


def _converse(question: _Question, transport: Transport, deadline: _Deadline, runtime: Runtime) -> Any:
    reader = FrameReader(MAX_GREETING)
    contents: list[bytes] = []
    while len(contents) < 2:
        data = transport.receive()
        if data is None:
            deadline.doing = '' if contents else MUTE if transport.established else NO_HANDSHAKE
            _wait(transport.socket.fileno(), True, bool(transport.queued), deadline, runtime)
            transport.flush()
            continue
        if not data:
            raise NoAnswer(question.silence)
        for content in reader.feed(data):
            contents.append(content)
            if len(contents) == 1:
                _check_greeting(content)
                reader.limit = MAX_ANSWER
                transport.send(frame(question.content))
    return question.read(contents[1])


def _wait(fd: int, read: bool, write: bool, deadline: _Deadline, runtime: Runtime) -> None:
    runtime.wait(fd, read, write, deadline.left())


def _check_greeting(greeting: bytes) -> None:
    if not (greeting[:1] in (b'Z', b'M') and greeting[1:].isdigit()):
        raise NoAnswer(f'it does not speak the protocol: it began with {quoted(greeting)}')


def _read_status(content: bytes) -> Status:
    status = _read_json(content)
    if not isinstance(status, dict) or not all(isinstance(value, dict) for value in status.values()):
        raise NoAnswer(f'it answered with something else than its status: {quoted(content)}')
    return status


def _read_done(content: bytes) -> dict[str, str]:
    answer = _read_json(content)
    if not isinstance(answer, dict) or not isinstance(answer.get('disconnected', answer.get('error')), str):
        raise NoAnswer(f'it answered with something that is no answer: {quoted(content)}')
    return answer


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
