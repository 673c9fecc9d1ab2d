"""Loading: questions to the server that change nothing.

Application threads ask; an answer enters the cache in the reader's role, at the moment in which it is
processed.  A question is asked again if its connection breaks, as long as the wait time-out allows.
"""
from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ZODB.POSException import POSKeyError

from zeo_clone.client.link import Link
from zeo_clone.client.manager import Manager
from zeo_clone.client.notices import check_revision
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.calls import Joinable
from zeo_clone.zrpc.channel.client import ClientChannel

#: Loads of a prefetch that are sent at once: the server works on them while the next are put together.
BURST = 50
#: So many bursts of a prefetch may wait for their answers.
MAX_BURSTS = 20


class Prefetched(Joinable):
    """A load that puts its answer into the cache."""

    __slots__ = ('_loader', 'channel', 'key')

    # There are thousands of these: nothing is inherited here or in `finish`.
    def __init__(self, loader: Loader, channel: ClientChannel, key: tuple[bytes, bytes]) -> None:
        self.done = False
        self.error = self.wakeup = self.joined = None
        self.channel = channel
        self._loader = loader
        self.key = key

    def take(self, value: Any) -> None:
        """Of the channel: the reply."""
        revision = check_revision(value)
        if revision is not None:
            data, start, end = revision
            self._loader.cache.store(self.key[0], start, end, data)

    def finish(self) -> None:
        """Of the channel: no more will come."""
        self.done = True
        self._loader.prefetching.pop(self.key, None)
        if self.joined:
            self.wake_joined()


class Loader:
    """Asks the server in use, or the next one."""

    def __init__(self, manager: Manager, cache: Any, wait_timeout_s: float, runtime: Runtime) -> None:
        self._manager = manager
        self.cache = cache
        self._wait_timeout_s = wait_timeout_s
        self._runtime = runtime
        self.prefetching: dict[tuple[bytes, bytes], Prefetched] = {}  # single operations are atomic

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
        if self.prefetching:
            pending = self.prefetching.get((oid, tid))
            if pending is not None:
                with contextlib.suppress(ClientDisconnected):
                    pending.channel.join(pending)
                found = self.cache.loadBefore(oid, tid)
                if found is not None:
                    return found

        def arrived(value: Any) -> Any:
            revision = check_revision(value)
            if revision is not None:
                data, start, end = revision
                self.cache.store(oid, start, end, data)
            return revision

        return self.read(lambda channel: channel.load(oid, tid, arrived))

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for what is not in the cache, without waiting for the answers."""
        channel = self.link().channel
        assert channel is not None
        cached = self.cache.loadBefore
        oids = [oid if type(oid) is bytes and len(oid) == 8 else eight_bytes(oid)
                for oid in dict.fromkeys(oids)]
        bursts: deque[Prefetched] = deque()  # the last load of each that was sent
        burst: list[Prefetched] = []
        for oid in oids:
            key = oid, tid
            if key in self.prefetching or cached(oid, tid) is not None:
                continue
            burst.append(Prefetched(self, channel, key))
            if len(burst) == BURST:
                self._send_burst(channel, burst)
                bursts.append(burst[-1])
                burst = []
                if len(bursts) == MAX_BURSTS:
                    channel.join(bursts.popleft())
        if burst:
            self._send_burst(channel, burst)

    def _send_burst(self, channel: ClientChannel, burst: list[Prefetched]) -> None:
        loads: list[bytes] = []
        start, prefetching = channel.start_load, self.prefetching
        try:
            try:
                for call in burst:
                    key = call.key
                    loads.append(start(key[0], key[1], call))
                    prefetching[key] = call  # not before: now it ends with the connection at the latest
            finally:
                channel.send_loads(loads)  # what was started is sent
        except BaseException:
            for call in burst:
                call.finish()
            raise


def eight_bytes(value: Any) -> bytes:
    """An oid or tid as the wire wants it.  Raises POSKeyError or TypeError."""
    if isinstance(value, bytes) and len(value) == 8:
        return bytes(value)
    if isinstance(value, bytes):
        raise POSKeyError(value)
    raise TypeError(f'an oid or tid is 8 bytes, not {value!r:.50}')
