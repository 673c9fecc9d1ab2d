"""An outage as the log tells it: why there is no connection, soon, and then once a minute (N18).

In: that a connection is being looked for, that one was found.  Out: lines in the log.  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable

from ZODB.POSException import ReadOnlyError

from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.timers import Timer
from zeo_clone.loop.tls import is_fault

log = logging.getLogger(__name__)

#: The log has the first line after so many seconds: a server that is restarted needs none ...
FIRST_S = 3.0
#: ... and another one each time when so many more have passed.
INTERVAL_S = 60.0


class Outage:
    """`explain` says what is looked for, and the last error of each address; None: nothing any more."""

    def __init__(self, loop: Loop, explain: Callable[[float], str | None]) -> None:
        self._loop = loop
        self._explain = explain
        self._since = 0.0
        self._timer: Timer | None = None  # there is none while there is no outage

    def begin(self) -> None:
        """There is no connection.  May be called again while that is so."""
        if self._timer is None:
            self._since = self._loop.runtime.monotonic()
            self._timer = self._loop.call_later(FIRST_S, self._ring)

    def end(self) -> None:
        """There is a server again."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _ring(self) -> None:
        text = self._explain(self._loop.runtime.monotonic() - self._since)
        if text is None:
            self._timer = None
            return
        log.warning('%s; looking on', text)
        self._timer = self._loop.call_later(INTERVAL_S, self._ring)


def is_definite(error: Exception) -> bool:
    """Will the same server probably say the same again: a storage that it does not have, a certificate that
    is not accepted, another protocol, a database that is older than the cache?"""
    if isinstance(error, ClientDisconnected):
        return False
    return isinstance(error, (ValueError, ReadOnlyError, ClientStorageError)) or (
        isinstance(error, OSError) and is_fault(error))
