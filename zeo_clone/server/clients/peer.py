"""Who is at the other end of a connection, as the log and the status call it.

In: the text of a peer, later a label of its own.  Out: names; log lines that a client can have repeated as
often as it likes, told now and then (S16).  Loop thread; `name` is read in any.
"""
from __future__ import annotations

import logging

from zeo_clone.loop.throttle import Throttle
from zeo_clone.server.clients.listen import origin
from zeo_clone.zrpc.messages import clean_label

log = logging.getLogger(__name__)

#: Of lines about clients of one host so many come in a minute: that they come and go, and that they are
#: thrown out (S16).
BURST, BURST_OF_WARNINGS = 20, 5


class Peer:
    """`address`: the text that names the other side.  Its log lines go through `throttle`."""

    def __init__(self, address: str, throttle: Throttle) -> None:
        self.address = address
        self.label = ''
        self.name = address  # with its label, if it has one
        self.origin = origin(address)
        self._throttle = throttle

    def __repr__(self) -> str:
        return f'<Peer {self.name}>'

    def set_label(self, label: str) -> None:
        """The client's own name for itself."""
        self.label = label = clean_label(label)
        self.name = f'{self.address} ({label})' if label else self.address

    def report(self, level: int, kind: str, text: str, *args: object, error: BaseException | None = None,
               burst: int = 1) -> None:
        """A log line about it."""
        self._throttle.report(log, level, kind, self.origin, text, *args, error=error, burst=burst)
