"""What is answered at which path.

In: a `Request`, the state of the server.  Out: a `Response`, at once, or when the server's loop has said how
it does.  Runs in the thread of the monitor's loop; `begin` and `stop` in any.  Knows no connection.
"""
from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import pkgutil
import platform
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from zeo_clone.addresses import format_address
from zeo_clone.loop.core import Loop
from zeo_clone.monitor.exposition import Exposition
from zeo_clone.monitor.reporter import PATIENCE_S, Report, Reporter
from zeo_clone.monitor.web import Request, Response, text
from zeo_clone.server.clients.operator import NotDone, Wish
from zeo_clone.troubles import failure, find
from zeo_clone.version import __version__
from zeo_clone.wording import counted, format_seconds

HTML = 'text/html; charset=utf-8'
JSON = 'application/json'
DISCONNECT = '/disconnect'
STARTING, STOPPING = 'starting: the storages are being opened', 'stopping'
STUCK = f'the loop of the server has not answered for {format_seconds(PATIENCE_S)}'

Reply = Callable[[Response], object]


class State(NamedTuple):
    """`word`: ``starting``, ``serving`` or ``stopping``; `reason`: more about it; `server`: while serving."""

    word: str
    reason: str
    server: Any


class Answers:
    """Knows all paths.  ``loop``: the monitor's.  With `disconnect` one more: there is something to do."""

    def __init__(self, loop: Loop, disconnect: bool = False) -> None:
        self._loop = loop
        #: What only a page of ours knows; None: nobody is disconnected.
        self._token = loop.runtime.randbytes(16).hex() if disconnect else None
        self._reporter = Reporter(loop)
        self._exposition = Exposition()
        self._page = load_page()
        self._state = State('starting', STARTING, None)  # replaced as a whole
        self._paths: dict[str, Callable[[Request, Reply], object]] = {
            '/': self._show_page, '/healthz': self._healthz, '/readyz': self._readyz,
            '/metrics': self._metrics, '/status.json': self._status}
        self.posts = frozenset({DISCONNECT} if disconnect else ())
        if disconnect:
            self._paths[DISCONNECT] = self._disconnect

    # ---- any thread -------------------------------------------------------------------------------

    def begin(self, server: Any) -> None:
        """`server` serves from now on."""
        self._state = State('serving', '', server)

    def stop(self) -> None:
        """The server does not serve any longer."""
        self._state = State('stopping', STOPPING, None)

    # ---- the monitor's thread ---------------------------------------------------------------------

    def answer(self, request: Request, reply: Reply) -> None:
        """Call `reply` with what is at the path, now or later."""
        found = self._paths.get(request.path)
        if found is None:
            reply(text(HTTPStatus.NOT_FOUND, f'there is nothing here; there is something at '
                                             f'{", ".join(self._paths)}'))
        else:
            found(request, reply)

    def _show_page(self, _: Request, reply: Reply) -> None:
        reply(self._page)

    def _ask(self, reply: Reply, answer: Callable[[Any, Report], Response],
             refuse: Callable[[str, str], Response]) -> None:
        """Reply with ``answer(server, report)``, or ``refuse(word, reason)`` if there is no report."""
        state = self._state
        if state.server is None:
            reply(refuse(state.word, state.reason))
            return

        def reported(report: Report | None) -> None:
            now = self._state
            if report is not None and now is state:
                reply(answer(state.server, report))
            elif now is state:
                reply(refuse('stuck', STUCK))
            else:
                reply(refuse(now.word, now.reason))

        self._reporter.ask(state.server, reported)

    def _healthz(self, _: Request, reply: Reply) -> None:
        # To be opening storages for long is no illness: whoever restarts a server then makes it worse.
        if self._state.word == 'starting':
            reply(text(HTTPStatus.OK, STARTING))
        else:
            self._ask(reply, lambda *_: text(HTTPStatus.OK, 'ok'), _unavailable)

    def _readyz(self, _: Request, reply: Reply) -> None:
        self._ask(reply, _readiness, _unavailable)

    def _metrics(self, request: Request, reply: Reply) -> None:
        def expose(_: Any, report: Report) -> Response:
            return Response(HTTPStatus.OK, *self._exposition.expose(report, request.accept))

        self._ask(reply, expose, _unavailable)

    def _status(self, _: Request, reply: Reply) -> None:
        def describe(server: Any, report: Report) -> Response:
            return _json(HTTPStatus.OK, {
                'state': 'serving', 'address': format_address(server.addr), 'version': __version__,
                'python': platform.python_version(), 'pid': os.getpid(),
                'time': report.time, 'lag': report.lag_s, 'storages': report.storages,
                'troubles': [trouble._asdict() for trouble in find(report.storages)],
                'token': self._token})

        self._ask(reply, describe, _no_description)

    def _disconnect(self, request: Request, reply: Reply) -> None:
        """``?client=...&storage=...``, as `operator.Wish` has it."""
        given = parse_qs(request.query)
        server = self._state.server
        if not self._is_from_our_page(request):
            reply(text(HTTPStatus.FORBIDDEN, 'only the page of this server may ask for that: load it again'))
        elif server is None:
            reply(_unavailable('', self._state.reason))
        elif not given.get('client'):
            reply(text(HTTPStatus.BAD_REQUEST, 'say which client: ?client=ADDRESS'))
        else:
            wish = Wish(given['client'][0], given.get('storage', [None])[0])
            server.call_in_loop(partial(self._expel, server, wish, f'the page, from {request.peer}', reply))

    def _is_from_our_page(self, request: Request) -> bool:
        origin = request.origin
        return self._token is not None and hmac.compare_digest(
            request.token.encode(), self._token.encode()) and (
                origin is None or origin.partition('://')[2] == request.host)

    # ---- the server's thread ----------------------------------------------------------------------

    def _expel(self, server: Any, wish: Wish, by: str, reply: Reply) -> None:
        try:
            answer = text(HTTPStatus.OK, f'disconnected {server.disconnect(wish, by)}')
        except NotDone as error:
            answer = text(HTTPStatus.CONFLICT, str(error))
        self._loop.door(partial(reply, answer))


def _unavailable(_: str, reason: str) -> Response:
    return text(HTTPStatus.SERVICE_UNAVAILABLE, reason)


def _readiness(_: Any, report: Report) -> Response:
    failed = [f'storage {name!r}: {failure(status)}'
              for name, status in sorted(report.storages.items()) if status['failed']]
    if failed:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, '\n'.join(failed))
    return text(HTTPStatus.OK, f'ok: {counted(len(report.storages), "storage")}')


def _no_description(word: str, reason: str) -> Response:
    return _json(HTTPStatus.SERVICE_UNAVAILABLE, {'state': word, 'reason': reason})


def _json(status: HTTPStatus, value: Any) -> Response:
    return Response(status, JSON, json.dumps(value).encode())


def load_page() -> Response:
    """The page for people.  Its one script and its one style are what a browser may use, and nothing else."""
    page, style, script = (pkgutil.get_data('zeo_clone.monitor', f'page.{kind}') or b''
                           for kind in ('html', 'css', 'js'))
    page = page.replace(b'<style>', b'<style>' + style).replace(b'<script>', b'<script>' + script)
    policy = (f"default-src 'none'; connect-src 'self'; img-src data:; script-src {_source(script)}; "
              f"style-src {_source(style)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return Response(HTTPStatus.OK, HTML, page, {'Content-Security-Policy': policy})


def _source(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
