"""What is answered at which path.

In: a `Request`, the state of the server.  Out: a `Response`, at once, or when the server's loop has said how
it does.  Runs in the thread of the monitor's loop; `begin` and `stop` in any.  Knows no connection.
"""
from __future__ import annotations

import base64
import hashlib
import json
import os
import pkgutil
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import zeo_clone
from zeo_clone.addresses import format_address
from zeo_clone.loop.core import Loop
from zeo_clone.monitor.exposition import Exposition
from zeo_clone.monitor.inquiry import PATIENCE_S, Inquiry, Report
from zeo_clone.monitor.web import Request, Response, text

HTML = 'text/html; charset=utf-8'
JSON = 'application/json'
STARTING, STOPPING = 'starting: the storages are being opened', 'stopping'
STUCK = f'the loop of the server has not answered for {PATIENCE_S:g} s'

Reply = Callable[[Response], object]


class State(NamedTuple):
    """`word`: ``starting``, ``serving`` or ``stopping``; `reason`: more about it; `server`: while serving."""

    word: str
    reason: str
    server: Any


class Answers:
    """Knows all paths.  ``loop``: the monitor's."""

    def __init__(self, loop: Loop) -> None:
        self._inquiry = Inquiry(loop)
        self._exposition = Exposition()
        self._page = load_page()
        self._state = State('starting', STARTING, None)  # replaced as a whole
        self._paths: dict[str, Callable[[Request, Reply], object]] = {
            '/': self._show_page, '/healthz': self._healthz, '/readyz': self._readyz,
            '/metrics': self._metrics, '/status.json': self._status}

    # ---- any thread -------------------------------------------------------------------------------

    def begin(self, server: Any) -> None:
        """`server` serves from now on."""
        self._state = State('serving', '', server)

    def stop(self) -> None:
        """It does no longer."""
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

        self._inquiry.ask(state.server, reported)

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
        self._ask(reply, _describe, _no_description)


def _unavailable(_: str, reason: str) -> Response:
    return text(HTTPStatus.SERVICE_UNAVAILABLE, reason)


def _readiness(_: Any, report: Report) -> Response:
    failed = [f'storage {name!r} failed in {status["failed"]}'
              for name, status in sorted(report.storages.items()) if status['failed']]
    if failed:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, '\n'.join(failed))
    return text(HTTPStatus.OK, f'ok: {len(report.storages)} storages')


def _describe(server: Any, report: Report) -> Response:
    return _json(HTTPStatus.OK, {
        'state': 'serving', 'address': format_address(server.addr), 'version': zeo_clone.__version__,
        'pid': os.getpid(), 'time': report.time, 'lag': report.lag_s, 'storages': report.storages})


def _no_description(word: str, reason: str) -> Response:
    return _json(HTTPStatus.SERVICE_UNAVAILABLE, {'state': word, 'reason': reason})


def _json(status: HTTPStatus, value: Any) -> Response:
    return Response(status, JSON, json.dumps(value).encode())


def load_page() -> Response:
    """The page for people.  Its one script and its one style are what a browser may use, and nothing else."""
    page = pkgutil.get_data('zeo_clone.monitor', 'page.html') or b''
    script, = re.findall(rb'<script>(.*?)</script>', page, re.DOTALL)
    style, = re.findall(rb'<style>(.*?)</style>', page, re.DOTALL)
    policy = (f"default-src 'none'; connect-src 'self'; img-src data:; script-src {_source(script)}; "
              f"style-src {_source(style)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
    return Response(HTTPStatus.OK, HTML, page, {'Content-Security-Policy': policy})


def _source(content: bytes) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'"
