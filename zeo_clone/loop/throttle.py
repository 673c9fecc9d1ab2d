"""A throttle for log lines that would repeat without end (N15, S16).

In: what kind of line, and who is to blame.  Out: whether to log now, and how often it was kept quiet since
the last time; or the line itself, in the log that is given.  Each loop has one, for everything that runs in
it, and each storage of a client.  Any thread: a count may be off by one, nothing worse.
"""
from __future__ import annotations

import logging
from collections.abc import Callable

#: A line of one kind about one peer comes at most so often (see `burst`) in so many seconds.
INTERVAL_S = 60.0
#: Peers that are told apart for one kind of line: whoever has many addresses gets no more lines for that.
MAX_PEERS = 20
#: Kinds and peers that are remembered.
MAX_KEYS = 1000
#: Those that were quiet for so long, in seconds, are forgotten: the next line is as the first was.
MEMORY_S = 3600.0
#: Stands for all further peers.
OTHERS = 'others'

#: Characters of the text of an error (L8).
MAX_TEXT = 1000

Key = tuple[str, str]
_NOTHING = (0.0, 0, 0)


def describe(error: BaseException) -> str:
    """`error` in a few words, to be added to a line."""
    return f': {type(error).__name__}: {error}'[:MAX_TEXT]


class Throttle:
    """Reports that do not flood the log.  ``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        #: When the present interval began, how many lines it had, how many were kept quiet.
        self._known: dict[Key, tuple[float, int, int]] = {}
        self._looked_at = clock()

    def admits(self, kind: str, peer: str = '', burst: int = 1) -> str | None:
        """What to add to the line, mostly nothing; None: do not log now.

        `burst` lines are admitted in each interval.
        """
        now = self._clock()
        key = self._key(kind, peer, now)
        since, said, kept_quiet = self._known.get(key, (now, 0, 0))
        if now - since < self._interval_s:
            if said < burst:
                self._known[key] = since, said + 1, 0
                return ''
            self._known[key] = since, said, kept_quiet + 1
            return None
        self._known[key] = now, 1, 0
        return f' ({kept_quiet} more of these in the last {now - since:.0f} s)' if kept_quiet else ''

    def report(self, log: logging.Logger, level: int, kind: str, peer: str, text: str, *args: object,
               error: BaseException | None = None, burst: int = 1) -> None:
        """Log a line if it is admitted, otherwise at DEBUG; the first with the traceback of `error`, others
        with its text.
        """
        more = self.admits(kind, peer, burst)
        traceback, why = (error, '') if more == '' or error is None else (None, describe(error))
        log.log(logging.DEBUG if more is None else level, f'{text}%s%s', *args, why, more or '',
                exc_info=traceback, stacklevel=2)

    def _key(self, kind: str, peer: str, now: float) -> Key:
        key = kind, peer
        if key in self._known:
            return key
        if now - self._looked_at >= self._interval_s:
            self._looked_at = now
            for known, (since, _, _) in list(self._known.items()):
                if now - since >= MEMORY_S:
                    self._known.pop(known, None)
        if len(self._known) >= MAX_KEYS:
            return OTHERS, OTHERS
        if peer:
            last = list(self._known.items())
            peers = sum(1 for (known, _), (since, _, _) in last
                        if known == kind and now - since < self._interval_s)
            others = kind, OTHERS
            if peers >= MAX_PEERS or self._known.get(others, _NOTHING)[2]:
                return others
        return key
