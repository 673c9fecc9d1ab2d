"""Heartbeats of the server (N1): who is still there?

Twice per interval every session looks after its connection: a client that promised to be heard of (our own
clients do, see ``heartbeat`` in `methods`) and is not, is dropped; a client to which nothing was sent gets a
keep-alive message, which it ignores, but whose loss the system notices.  Loop thread only.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.steps import take_steps

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


class Beating(Protocol):
    """What a session does about it."""

    def beat(self) -> None:
        """Look after the connection."""


class Heartbeat:
    """Of all `sessions` of a server."""

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
