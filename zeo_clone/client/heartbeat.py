"""Heartbeats: is the server still there (N1)?

Once per interval the server is asked something; if then nothing at all is heard for two intervals the link
is given up.  So a host that vanished is noticed within three.  Runs in the loop's thread, or, without an
I/O thread, also in the thread that waits for a reply.  Knows nothing of addresses and caches.
"""
from __future__ import annotations

from collections.abc import Callable

from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.core import Loop
from zeo_clone.loop.timers import Timer
from zeo_clone.wording import format_seconds
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.offers import HEARTBEAT

#: Seconds between two heartbeats, unless ``heartbeat`` says otherwise.
INTERVAL_S = 10.0
#: No shorter ones, which would be nothing but work.
SHORTEST_S = 0.01
#: Intervals of silence after a question that mean: it has gone.
PATIENCE = 2


class Heartbeat:
    """The heartbeat of one link.  `announce`: the server knows ``heartbeat`` and will watch this client in
    turn; `tell`: it wants to know that of the client, too, each time.
    """

    def __init__(self, loop: Loop, channel: ClientChannel, interval_s: float, announce: bool,
                 fail: Callable[[Exception], object], tell: Callable[[], object] | None = None) -> None:
        self._loop = loop
        self._channel = channel
        self._interval_s = interval_s
        # Without an I/O thread the application may be silent for long: the server must not expect beats.
        self._question: tuple[str, tuple[object, ...]] = (
            (HEARTBEAT, (interval_s,)) if announce else ('ping', ()))
        self._tell = tell if announce else None
        self._announce = announce
        self._fail = fail
        self._asked_at: float | None = None  # of the question that is not answered
        self._sent = 0  # bytes, when that was looked at last ...
        self._taken_at = 0.0  # ... and when it was found that more of a long message had been taken
        self._timer: Timer | None = None

    def start(self) -> None:
        """Loop thread: beat from now on."""
        if self._announce:
            self.beat()
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    def _tick(self) -> None:
        self.beat()
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    def stop(self) -> None:
        """Stop: the link has gone."""
        if self._timer is not None:
            self._timer.cancel()

    def beat(self) -> None:
        """Ask, or judge the silence after the last question.

        A server that was promised to hear of this client does so, even while the answer waits behind a large
        one.
        """
        if self._asked_at is None:
            self._asked_at = self._loop.runtime.monotonic()
        elif self._is_silent(self._asked_at):
            silent_s = PATIENCE * self._interval_s
            self._fail(TimeoutError(f'the server has been silent for {format_seconds(silent_s)}'))
            return
        elif not self._announce:
            return
        try:
            name, args = self._question
            if self._tell is not None:
                args = *args, self._tell()
            self._channel.call_async(name, args, self._answered)
        except ClientDisconnected:
            pass  # its end is under way

    def _is_silent(self, asked_at: float) -> bool:
        now, channel = self._loop.runtime.monotonic(), self._channel
        transport = channel.transport
        if transport.queued and transport.sent != self._sent:
            # A server that takes a large message is there, and answers when it has got all of it (N19).
            self._taken_at = now
        self._sent = transport.sent
        heard_at = max(asked_at, channel.last_received, self._taken_at)
        # What has arrived and waits for this process is no silence.
        return now - heard_at >= PATIENCE * self._interval_s and not channel.has_input()

    def _answered(self, call: PendingCall) -> None:
        self._asked_at = None
