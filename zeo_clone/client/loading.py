"""Loading: questions to the server that change nothing.

Application threads ask; an answer enters the cache in the reader's role, at the moment in which it is
processed.  A question is asked again if its connection breaks, as long as the wait time-out allows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ZODB.POSException import POSKeyError

from zeo_clone.client.link import Link
from zeo_clone.client.manager import Manager
from zeo_clone.client.notices import check_revision
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel

#: Loads of a prefetch in one burst; the next burst waits until half of them are answered.
BURST = 1000


class Loader:
    """Asks the server in use, or the next one."""

    def __init__(self, manager: Manager, cache: Any, wait_timeout_s: float, runtime: Runtime) -> None:
        self._manager = manager
        self._cache = cache
        self._wait_timeout_s = wait_timeout_s
        self._runtime = runtime
        self._prefetching: dict[tuple[bytes, bytes], PendingCall] = {}  # single operations are atomic

    def link(self) -> Link:
        """The link in use; waits for one.  Raises `ClientDisconnected`."""
        return self._manager.link(self._wait_timeout_s)

    def ask(self, name: str, *args: Any) -> Any:
        """Call a method that changes nothing."""
        return self.read(lambda channel: channel.call(name, args))

    def read(self, call: Callable[[ClientChannel], Any]) -> Any:
        """``call(channel)``, and once more if the connection breaks meanwhile."""
        deadline = 0.0
        link = self._manager.ready
        while True:
            if link is None:
                now = self._runtime.monotonic()
                deadline = deadline or now + self._wait_timeout_s
                link = self._manager.link(max(0.0, deadline - now))
            channel = link.channel
            assert channel is not None
            try:
                return call(channel)
            except ClientDisconnected:
                if channel.fate is None:
                    raise  # the server itself said so
                link = None  # the manager does not give out one that is about to be buried

    def load(self, oid: bytes, tid: bytes) -> Any:
        """loadBefore of what is not in the cache."""
        if type(oid) is not bytes or type(tid) is not bytes or len(oid) != 8 or len(tid) != 8:
            oid, tid = eight_bytes(oid), eight_bytes(tid)
        if self._prefetching:
            pending = self._prefetching.get((oid, tid))
            link = self._manager.ready
            if pending is not None and link is not None and link.channel is not None:
                link.channel.join(pending)
                found = self._cache.loadBefore(oid, tid)
                if found is not None:
                    return found

        def arrived(value: Any) -> Any:
            revision = check_revision(value)
            if revision is not None:
                data, start, end = revision
                self._cache.store(oid, start, end, data)
            return revision

        return self.read(lambda channel: channel.load(oid, tid, arrived))

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for what is not in the cache, without waiting for the answers."""
        link = self.link()
        assert link.channel is not None
        loads = []
        for oid in dict.fromkeys(oids):
            if (oid, tid) not in self._prefetching and self._cache.loadBefore(oid, tid) is None:
                pending = self._prefetched(link.channel, eight_bytes(oid), tid)
                self._prefetching[oid, tid] = pending
                loads.append((oid, tid, pending))
            if len(loads) == BURST:
                self._send_burst(link.channel, loads)
                loads = []
        self._send_burst(link.channel, loads)

    def _send_burst(self, channel: ClientChannel, loads: list[tuple[bytes, bytes, PendingCall]]) -> None:
        if loads:
            try:
                channel.load_async(loads)
            except BaseException:
                for oid, tid, _ in loads:
                    self._prefetching.pop((oid, tid), None)
                raise
            if len(loads) == BURST:
                channel.join(loads[BURST // 2][2])

    def _prefetched(self, channel: ClientChannel, oid: bytes, tid: bytes) -> PendingCall:
        def arrived(value: Any) -> None:
            revision = check_revision(value)
            if revision is not None:
                data, start, end = revision
                self._cache.store(oid, start, end, data)

        def done(pending: PendingCall) -> None:
            self._prefetching.pop((oid, tid), None)

        return channel.async_call(arrived, done)


def eight_bytes(value: Any) -> bytes:
    """An oid or tid as the wire wants it.  Raises POSKeyError or TypeError."""
    if isinstance(value, bytes) and len(value) == 8:
        return bytes(value)
    if isinstance(value, bytes):
        raise POSKeyError(value)
    raise TypeError(f'an oid or tid is 8 bytes, not {value!r:.50}')
