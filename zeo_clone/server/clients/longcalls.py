"""Calls of one client that may take long: undo logs, histories, what a storage itself offers.

In: functions, and word from the channel that there is room.  Out: `Deferred` results.  One at a time goes to
the worker threads, and none while much output waits: so a client that asks and asks has one answer in the
making, and one that it does not read (S14).  Loop thread only, apart from `gone`.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from zeo_clone.server.backend.workers import MAX_LANE
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import TooBusy
from zeo_clone.zrpc.channel.server import LOW_WATER

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member


class LongCalls:
    """The queue of one client.  `gone`, which any thread may look at: nobody waits for answers any more."""

    def __init__(self, member: Member) -> None:
        self.gone = False
        self._member = member
        self._waiting: deque[tuple[Callable[[], Any], Deferred]] = deque()
        self._running = False

    def __repr__(self) -> str:
        return f'<LongCalls, {len(self._waiting)} wait>'

    def run(self, function: Callable[[], Any]) -> Deferred:
        """Have `function` called in a worker thread when it is its turn.  Raises `TooBusy`."""
        if len(self._waiting) >= MAX_LANE:
            raise TooBusy(f'{MAX_LANE} long calls of this client wait already')
        deferred = Deferred()
        self._waiting.append((function, deferred))
        self.go_on()
        return deferred

    def go_on(self) -> None:
        """There may be room for one more answer."""
        if self._running or not self._waiting:
            return
        if self._member.queued > LOW_WATER:
            self._member.want_room()
            return
        function, deferred = self._waiting.popleft()
        self._running = True
        self._member.workers.run(self, function, long=True).when_settled(partial(self._done, deferred))

    def _done(self, deferred: Deferred, value: Any, error: BaseException | None) -> None:
        self._running = False
        if self.gone:
            return
        deferred.settle(value, error)
        self.go_on()

    def close(self) -> None:
        """The client has gone."""
        self.gone = True
        self._waiting.clear()
