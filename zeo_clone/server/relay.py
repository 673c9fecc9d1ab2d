"""A server in front of another one, which is *above*, as it is served.

In and out: as in `aside`.  Replies and invalidations from above come in one order, through the door, and go
out in it.  What was missed without the server above is asked for one by one; if it cannot tell, all clients
come again and ask what has changed, since a transaction must not be told with a tid that is not its own.
Loop thread only, apart from the methods under the banner "any thread", and `status`.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from zeo_clone.server.aside import Occurrence, ServedAside
from zeo_clone.server.backend.aside.relay import RelayBackend
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.deferred import Deferred, settle_with


class ServedRelay(ServedAside):
    """A storage with a server of its own."""

    def _make_backend(self, storage: Any, guard: Guard) -> Any:
        return RelayBackend(self.loop, self.name, storage, guard, self.stats)

    def _listen(self) -> None:
        self.backend.listen(self)
        self.backend.start_relay(self.heard, self.lost_track, self.caught_up, self.started_over)
        self._look_where()

    # ---- any thread: what happens above ---------------------------------------------------------------

    def caught_up(self, tid: bytes, oids: list[bytes]) -> None:
        """Transactions that were missed, up to `tid`, wrote `oids`."""
        self.loop.door(partial(self._happened, Occurrence(tid, oids, self._tell_missed, exact=False)))

    def started_over(self, tid: bytes) -> None:
        """Anything may have changed, up to `tid`."""
        self.loop.door(partial(self._happened, Occurrence(
            tid, [], lambda tid, _: self._start_over(tid), exact=False)))

    # ---- what is told -----------------------------------------------------------------------------

    def _tell_lost(self, tid: bytes, oids: list[bytes]) -> None:
        """What has been told is true, what comes next may not be: who is here comes again."""
        self._start_over(self.audience.history.last_tid)

    def _tell_missed(self, tid: bytes, oids: list[bytes]) -> None:
        if not oids and not self._inside:
            self._tell_others(tid, oids)
            return
        self._asking = True
        self.backend.missed(self.audience.history.last_tid, tid, oids).when_settled(
            partial(self._found, tid, oids))

    def _found(self, tid: bytes, oids: list[bytes], found: Any, error: BaseException | None) -> None:
        self._asking = False
        if error is None and found is not None and {own.tid for own in self._inside} <= {
                one for one, _ in found}:
            self._tell_found(found)
        else:
            self.audience.missed(tid, oids)
            self._told_inside()
        self._go_on()

    def _tell_found(self, found: list[tuple[bytes, list[bytes]]]) -> None:
        inside, self._inside = {own.tid: own for own in self._inside}, []
        for tid, oids in found:
            if tid in inside:
                inside[tid].tell(tid, inside[tid].oids)
            else:
                self._tell_others(tid, oids)

    def when_fresh(self, function: Callable[[], Any]) -> Any:
        """What `function` returns: what is here holds, whatever is being asked."""
        return function()

    def when_current(self, function: Callable[[], Any]) -> Deferred:
        """What `function` returns, when all has been told that was committed above by now."""
        answer = Deferred()
        self.backend.ping().when_settled(partial(self._current, function, answer))
        return answer

    def _current(self, function: Callable[[], Any], answer: Deferred, _: object,
                 error: BaseException | None) -> None:
        if error is not None:
            answer.fail(error)
        else:
            settle_with(self.loop, answer, partial(self._when_told, function))

    # ---- the status -------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """The dict of ``server_status``."""
        status, relay = super().status(), self.backend.status()
        away = None if relay['connected'] else 'the server above is away: only what is cached is read'
        return {**status, 'failed': status['failed'] or away, 'relay': relay}
