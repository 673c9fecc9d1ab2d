"""HTTP, as much of it as monitoring needs: one request for each connection, without a body.

In: connections, bytes of strangers.  Out: a `Request` for whoever answers, the bytes of its `Response`.  Runs
in the thread of the monitor's loop and never waits in it; requests are read by the standard library.
Whatever a peer does, it holds one of `MAX_CONNECTIONS` places for little longer than `DEADLINE_S`, and about
`MAX_HEAD` bytes.  Only requests for this host (`hosts`) are answered.  Refuses to know what is asked.
"""
from __future__ import annotations

import enum
import io
import logging
from collections.abc import Callable, Container, Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from types import MappingProxyType
from typing import Any, NamedTuple

from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Dispatcher
from zeo_clone.loop.poller import READ, WRITE
from zeo_clone.loop.runtime import Socket
from zeo_clone.loop.transport import Transport
from zeo_clone.monitor.hosts import Hosts

log = logging.getLogger(__name__)

#: Connections at a time; one more takes the place of the oldest that has said nothing ...
MAX_CONNECTIONS = 50
#: ... which has had so many seconds to do so: until then others wait in the system, where requests may arrive
#: before their connection is taken.  So a storm of connections keeps no health check out (S15).
GRACE_S = 0.02
#: A connection is closed after so many seconds, whatever has happened until then ...
DEADLINE_S = 10.0
#: ... and so long after its answer, if the peer has more to say that nobody wants to hear.
LINGER_S = 1.0
#: Bytes of a request.
MAX_HEAD = 8192
#: Requests are things to look at, apart from what `Door` is told.
METHODS = ('GET', 'HEAD')
TEXT = 'text/plain; charset=utf-8'
#: The header in which a page shows that it is of this server; pages of other sites cannot send it.
TOKEN = 'X-Zeo-Token'
#: Of every answer: nothing here is for other sites, for a cache, or to be guessed at.
HEADERS = {'Cache-Control': 'no-store', 'Connection': 'close', 'Referrer-Policy': 'no-referrer',
           'X-Content-Type-Options': 'nosniff', 'Content-Security-Policy': "default-src 'none'"}


class Request(NamedTuple):
    """What is asked: the path, the headers Accept and Host; the query, the token and origin that a page
    sends, and who asks.
    """

    path: str
    accept: str
    host: str | None = None
    query: str = ''
    token: str = ''
    origin: str | None = None
    peer: str = ''

    def __repr__(self) -> str:  # for logs, which no token comes into
        return f'Request(path={self.path!r}, accept={self.accept!r}, host={self.host!r})'


class Response(NamedTuple):
    """An answer; `headers` are added to `HEADERS` or take their place."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})


Respond = Callable[[Request, Callable[[Response], object]], object]


def text(status: HTTPStatus, words: str) -> Response:
    """A line of text."""
    return Response(status, TEXT, f'{words}\n'.encode())


class _Parser(BaseHTTPRequestHandler):
    """The standard library's parser, without its connection."""

    def __init__(self, head: bytes) -> None:
        self.rfile = io.BufferedReader(io.BytesIO(head))
        self.wfile = io.BytesIO()
        self.command = self.path = ''
        self.headers = HTTPMessage()
        self.complaint: tuple[HTTPStatus, str] = HTTPStatus.BAD_REQUEST, 'this is no HTTP request'
        self.raw_requestline = self.rfile.readline(MAX_HEAD)
        self.good = self.parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self.complaint = HTTPStatus(code), message or explain or self.complaint[1]


def parse(head: bytes, peer: str = '', posts: Container[str] = ()) -> tuple[str, Request | Response]:
    """The method, and the request with the lines `head`, or the answer to a bad one.  At the paths `posts`
    there is something to do.
    """
    parser = _Parser(head)
    if not parser.good:
        status, words = parser.complaint
        return '', text(status, words[:200])
    path, _, query = parser.path.partition('?')
    methods = ('POST',) if path in posts else METHODS
    if parser.command not in methods:
        refused = text(HTTPStatus.METHOD_NOT_ALLOWED, f'possible here: {", ".join(methods)}')
        return '', refused._replace(headers={'Allow': ', '.join(methods)})
    hosts = parser.headers.get_all('Host', [])
    if len(hosts) > 1:
        return '', text(HTTPStatus.BAD_REQUEST, 'a request has one Host')
    get = parser.headers.get
    return parser.command, Request(path, get('Accept', ''), hosts[0] if hosts else None, query,
                                   get(TOKEN, ''), get('Origin'), peer)


def to_bytes(response: Response, with_body: bool = True) -> bytes:
    """The bytes of the answer, head and body."""
    headers = {'Content-Type': response.content_type, 'Content-Length': str(len(response.body)),
               'Date': formatdate(usegmt=True), **HEADERS, **response.headers}
    lines = [f'HTTP/1.1 {response.status.value} {response.status.phrase}',
             *(f'{name}: {value}' for name, value in headers.items()), '', '']
    return '\r\n'.join(lines).encode('latin-1') + (response.body if with_body else b'')


class Rules(NamedTuple):
    """Under which names there are answers, and at which paths there is something to do, not to look at."""

    hosts: Hosts
    posts: Container[str] = ()


class _State(enum.Enum):
    """The states of a connection, from top to bottom; `LINGERING` only if need be."""

    READING = enum.auto()    # the request
    ANSWERING = enum.auto()  # somebody thinks about it
    SENDING = enum.auto()    # the answer
    LINGERING = enum.auto()  # the peer is still sending what nobody reads


class WebConnection(Dispatcher):
    """One connection, for one request."""

    def __init__(self, loop: Loop, sock: Socket, peer: str, rules: Rules, respond: Respond,
                 forget: Callable[[WebConnection], object]) -> None:
        super().__init__(loop, sock)
        self._peer = peer
        self._rules = rules
        self._came = loop.runtime.monotonic()
        self._respond = respond
        self._forget = forget
        self._transport = Transport(sock, loop.runtime)
        self._state = _State.READING
        self._head = b''
        self._with_body = True
        self._heard_all = False  # nothing but the request has come
        self._deadline = loop.call_later(DEADLINE_S, self._expire)
        self.open(READ)

    def __repr__(self) -> str:
        return f'<WebConnection {self._peer} {self._state.name.lower()}>'

    @property
    def has_asked(self) -> bool:
        """Has there been a request?"""
        return self._state is not _State.READING

    @property
    def age_s(self) -> float:
        """For how long it has been there."""
        return self.loop.runtime.monotonic() - self._came

    def handle_read(self) -> None:
        try:
            data = self._transport.receive()
        except OSError as error:
            self.end(f'{error}')
            return
        if data is None:
            return
        if self._state is _State.READING:
            self._read(data)
        elif self._state is _State.LINGERING and not data:
            self.end('done')
        elif data:
            self._heard_all = False
        else:
            self.want(READ, False)  # the peer has said all and waits for the answer

    def _read(self, data: bytes) -> None:
        if not data:
            self.end('closed by the peer')
            return
        self._head += data
        ends = [at + len(end) for end in (b'\r\n\r\n', b'\n\n') if (at := self._head.find(end)) >= 0]
        if ends and min(ends) <= MAX_HEAD:
            self._heard_all = min(ends) == len(self._head)
            self._ask(self._head[:min(ends)])
        elif len(self._head) > MAX_HEAD:
            self._answer(text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                              f'a request may have {MAX_HEAD} bytes'))

    def _ask(self, head: bytes) -> None:
        self._state = _State.ANSWERING
        method, found = parse(head, self._peer, self._rules.posts)
        log.debug('%s: %s', self._peer, found)
        if isinstance(found, Response):
            self._answer(found)
            return
        self._with_body = method != 'HEAD'
        # Without a Host it does not come from a browser.
        refusal = None if found.host is None else self._rules.hosts.refusal(found.host, self._arrived_at())
        if refusal is not None:
            self._answer(text(HTTPStatus.MISDIRECTED_REQUEST, refusal))
            return
        try:
            self._respond(found, self._answer)
        except Exception as error:
            self.loop.throttle.report(log, logging.ERROR, f'answer: {type(error)}', '',
                                      '%s: cannot answer %r', self._peer, found, error=error)
            self._answer(text(HTTPStatus.INTERNAL_SERVER_ERROR, 'the server made a mistake; see its log'))

    def _arrived_at(self) -> str:
        name = self.socket.getsockname()
        return str(name[0]) if isinstance(name, tuple) else ''

    def _answer(self, response: Response) -> None:
        """The answer, at once or later; nobody may be there any more."""
        if self.closed or self._state in (_State.SENDING, _State.LINGERING):
            return
        self._state = _State.SENDING
        self._head = b''
        self._transport.write(to_bytes(response, self._with_body))
        self.handle_write()

    def handle_write(self) -> None:
        if self._state is not _State.SENDING:
            return
        try:
            if not self._transport.flush():
                self.want(WRITE)
                return
        except OSError as error:
            self.end(f'{error}')
            return
        if self._heard_all:
            self.end('done')
            return
        # To close now would tell the peer that what it sends was lost, and perhaps cost it the answer.
        self._state = _State.LINGERING
        self._deadline.cancel()
        self._deadline = self.loop.call_later(LINGER_S, self._expire)
        self.set_interest(READ)

    def _expire(self) -> None:
        self.end('time is over')

    def end(self, reason: str) -> None:
        """Close it; `reason` is for the log."""
        log.debug('%r: %s', self, reason)
        self.handle_close()

    def handle_close(self) -> None:
        self._deadline.cancel()
        self.close()
        self._forget(self)


class Door:
    """Takes connections in; there are `MAX_CONNECTIONS` places."""

    def __init__(self, loop: Loop, respond: Respond, rules: Rules) -> None:
        self._loop = loop
        self._rules = rules
        self._respond = respond
        self._connections: dict[WebConnection, None] = {}

    def pause_s(self) -> float:
        """For how many seconds there is no place for one more."""
        if len(self._connections) >= MAX_CONNECTIONS:
            self._dispensable().handle_event(READ)  # its request may be there, and be answered at once
        if len(self._connections) < MAX_CONNECTIONS:
            return 0.0
        return GRACE_S - self._dispensable().age_s

    def connected(self, sock: Socket, peer: str) -> None:
        """A new connection."""
        if len(self._connections) >= MAX_CONNECTIONS:
            # Whoever asks properly is gone in a moment; peers that say nothing keep no health check out.
            self._dispensable().end('others want its place')
        connection = WebConnection(self._loop, sock, peer, self._rules, self._respond, self._leave)
        self._connections[connection] = None

    def _dispensable(self) -> WebConnection:
        """The oldest of those that have not asked for anything, or of all."""
        return next((one for one in self._connections if not one.has_asked), next(iter(self._connections)))

    def _leave(self, connection: Any) -> None:
        self._connections.pop(connection, None)
