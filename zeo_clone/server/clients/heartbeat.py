"""Heartbeats of the server (N1): who is still there?

Twice per interval every session looks after its connection: a client that promised to be heard of (our own
clients do, see ``heartbeat`` in `methods`) and is not, is dropped; a client to which nothing was sent gets a
keep-alive message, which it ignores, but whose loss the system notices.  Loop thread only.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.server.stats import Stats
from zeo_clone.steps import take_steps
from zeo_clone.wording import format_seconds
from zeo_clone.zrpc.channel.server import ServerChannel

#: Seconds between two keep-alive messages.
INTERVAL_S = 10.0
#: A client may be silent for so many of the intervals that it promised; the sessions are asked often
#: enough for that to be found out within three.
PATIENCE = 2.5
#: A client cannot promise more often than this, in seconds.
SHORTEST_S = 0.05
#: Who has sent so much of a message, in bytes, and then nothing more for so long, in seconds, has gone, or
#: wants nothing but the memory (S12).
LARGE_PART = 64 << 10
STALLED_S = 30.0


class Pulse:
    """The pulse of the client at the end of `channel`, whose connection ``disconnect(reason)`` closes."""

    def __init__(self, channel: ServerChannel, clock: Callable[[], float],
                 disconnect: Callable[[str], object]) -> None:
        self._channel = channel
        self._clock = clock
        self._disconnect = disconnect
        self._sent_before = 0, clock()  # bytes, and at which look something last went out, or had gone
        self.interval_s = math.inf  # the client promised to be heard this often

    def __repr__(self) -> str:
        return f'<Pulse, expected every {self.interval_s:g} s>'

    def expect(self, interval_s: float) -> None:
        """The client will be heard of once in `interval_s` seconds."""
        self.interval_s = max(interval_s, SHORTEST_S)

    def stalled_s(self, queued: int, sent: int) -> float:
        """For how long nothing has gone out, seen from the last looks, although something waits."""
        sent_before, since = self._sent_before
        return self._clock() - since if queued > 0 and sent == sent_before else 0.0

    def look(self, answers: bool, stats: Stats | None) -> None:
        """Is the client still there?  One that `answers` is told that we are."""
        channel, patience_s = self._channel, PATIENCE * self.interval_s
        if channel.silence() > patience_s:
            if stats is not None:
                stats.silent += 1
            self._disconnect(f'nothing was heard of it for {format_seconds(patience_s)}')
        elif channel.unfinished > LARGE_PART and channel.silence() > STALLED_S:
            self._disconnect(f'it sent {channel.unfinished} bytes of a message, and nothing more for '
                             f'{format_seconds(STALLED_S)}')
        elif answers:
            channel.keep_alive()
        sent, _, queued = channel.traffic
        if not queued or sent != self._sent_before[0]:
            self._sent_before = sent, self._clock()


class Beating(Protocol):
    """What a session does about it."""

    def beat(self) -> None:
        """Look after the connection."""


class Heartbeat:
    """The heartbeat of all `sessions` of a server."""

    def __init__(self, loop: Loop, sessions: Iterable[Beating], interval_s: float) -> None:
        self._loop = loop
        self._sessions = sessions
        self._interval_s = interval_s

    def start(self) -> None:
        """Beat from now on."""
        self._loop.call_later(self._interval_s / 2, self._beat)

    def _beat(self) -> None:
        self.start()
        take_steps('the heartbeat', *[session.beat for session in self._sessions])
