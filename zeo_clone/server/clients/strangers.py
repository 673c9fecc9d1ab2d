"""Strangers: connections that have not named their storage yet (N6, S13).

In: sessions that come, and cease to be strangers.  Out: the end of those that take too long, and of one that
makes room for somebody new.  Loop thread only.
"""
from __future__ import annotations

import logging
from typing import Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.wording import format_seconds

#: A stranger of whom nothing has come in this time, in seconds, makes room for a new one ...
SILENT_S = 0.0625
#: ... and one who has said something, after this.
TALKING_S = 1.0


class Stranger(Protocol):
    """A session, before it is registered."""

    @property
    def has_spoken(self) -> bool:
        """Has anything come from it?"""

    @property
    def handshake_hint(self) -> str:
        """What the connection may be doing wrong, for a log line."""

    def disconnect(self, reason: str, level: int = logging.WARNING) -> None:
        """Close the connection; logs `reason`."""


class Strangers:
    """Those of one server; each is given `timeout_s` seconds."""

    def __init__(self, loop: Loop, timeout_s: float) -> None:
        self._loop = loop
        self._clock = loop.runtime.monotonic
        self._timeout_s = timeout_s
        self._came: dict[Stranger, float] = {}  # the oldest first
        self._watching = False
        self.timed_out = 0  # so many did not register in time

    def __len__(self) -> int:
        return len(self._came)

    def add(self, stranger: Stranger) -> None:
        """One more has come."""
        self._came[stranger] = self._clock()
        self._watch()

    def discard(self, stranger: Stranger) -> None:
        """It is registered, or gone."""
        self._came.pop(stranger, None)

    def make_room(self) -> bool:
        """Close one that does not seem to get anywhere, the oldest one; False if there is none."""
        now = self._clock()
        for stranger, came in self._came.items():
            if now - came < SILENT_S:
                return False
            if not stranger.has_spoken or now - came >= TALKING_S:
                stranger.disconnect('it makes room for others: it has not registered yet', logging.DEBUG)
                return True
        return False

    def patience_s(self) -> float:
        """How many seconds until `make_room` can close one; 0 if there is none."""
        now = self._clock()
        return max(0.0, min((came + (TALKING_S if stranger.has_spoken else SILENT_S) - now
                             for stranger, came in self._came.items()), default=0.0))

    def _watch(self) -> None:
        """Look again when the oldest one's time is over."""
        if self._came and not self._watching:
            self._watching = True
            age_s = self._clock() - next(iter(self._came.values()))
            self._loop.call_later(max(0.0, self._timeout_s - age_s), self._look)

    def _look(self) -> None:
        self._watching = False
        now = self._clock()
        for stranger, came in list(self._came.items()):
            if now - came < self._timeout_s:
                break
            self.timed_out += 1
            stranger.disconnect(f'it did not register within {format_seconds(self._timeout_s)}'
                                f'{stranger.handshake_hint}')
        self._watch()
