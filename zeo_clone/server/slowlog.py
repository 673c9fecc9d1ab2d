"""The slow log: loads and commits that took long, and what they waited for (``slow-load``, ``slow-commit``).

In: durations, with what is known of those who waited.  Out: lines of a logger of its own, not too many for
each host (S16).  Loop thread only.
"""
from __future__ import annotations

import logging
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.hot import class_name
from zeo_clone.server.clients.listen import origin
from zeo_clone.wording import quoted

log = logging.getLogger('zeo_clone.slow')

#: So many lines of one kind come in a minute for each host.
BURST = 10
#: Of what a client says about a transaction so much is shown, in characters.
MAX_TEXT = 200
#: Phase of a transaction: what it waits for in it.
WAITS_FOR = {
    'begun': 'the client, which sent its changes', 'syncing': 'the disk, for its blobs',
    'waiting': 'the commit lock', 'replaying': 'the storage, which took the changes',
    'resolving': 'the client, which resolved conflicts', 'voted': 'the client, which had voted',
    'finishing': 'the storage, in tpc_finish', 'doomed': 'the client, whose transaction had failed'}


class SlowLog:
    """The slow commits and loads of the storage `name`; limits in seconds, None: that is not looked at."""

    def __init__(self, loop: Loop, name: str, commit_s: float | None, load_s: float | None) -> None:
        self._throttle = loop.throttle
        self._name = name
        self.commit_s = commit_s
        self.load_s = load_s

    def load(self, client: str, oid: bytes, revision: Any, seconds: float, besides: str) -> None:
        """Reading the current record of `oid` took long; `besides`: what the storage did at that time."""
        what = ('nothing' if revision is None else
                f'{class_name(revision[0])}, {len(revision[0])} bytes')
        self._throttle.report(
            log, logging.WARNING, 'slow load', origin(client),
            'slow load: %s: object 0x%s (%s) took %.3f s in storage %r%s', client, oid.hex(), what, seconds,
            self._name, besides, burst=BURST)

    def commit(self, client: str, meta: Any, spent_s: dict[str, float], waited_for: str, how: str) -> None:
        """A transaction has ended: `spent_s` seconds in each phase; `waited_for`: who held the commit lock
        when it came to it; `how` it ended."""
        total = sum(spent_s.values())
        if self.commit_s is None or total < self.commit_s:
            return
        phase = max(spent_s, key=lambda phase: spent_s[phase])
        waited = f', held by {waited_for}' if waited_for and phase == 'waiting' else ''
        steps = ', '.join(f'{phase} {seconds:.3f}' for phase, seconds in spent_s.items())
        self._throttle.report(
            log, logging.WARNING, 'slow commit', origin(client),
            'slow commit: %s: user %s, %s: %.3f s in storage %r, most of it for %s%s; %s (%s)', client,
            quoted(meta.user, MAX_TEXT), quoted(meta.description, MAX_TEXT), total, self._name,
            WAITS_FOR.get(phase, phase), waited, how, steps, burst=BURST)
