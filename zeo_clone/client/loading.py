"""Loading: questions to the server that change nothing.

Application threads ask; an answer enters the cache in the reader's role, at the moment in which it is
processed.  A question is asked again if its connection breaks, as long as the wait time-out allows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from zeo_clone.client.caching import Cache
from zeo_clone.client.link import Link
from zeo_clone.client.manager import Manager
from zeo_clone.client.notices import check_revision
from zeo_clone.client.prefetching import Prefetcher, eight_bytes
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.client import ClientChannel


class Loader:
    """Asks the server in use, or the next one."""

    def __init__(self, manager: Manager, cache: Cache, wait_timeout_s: float, runtime: Runtime) -> None:
        self._manager = manager
        self._places = manager.places
        self.cache = cache
        self._wait_timeout_s = wait_timeout_s
        self._runtime = runtime
        self.prefetcher = Prefetcher(cache)

    def link(self) -> Link:
        """The link in use; waits for one.  Raises `ClientDisconnected`."""
        return self._manager.link(self._wait_timeout_s)

    def ask(self, name: str, *args: Any, wait_timeout_s: float | None = None) -> Any:
        """Call a method that changes nothing."""
        return self.read(lambda channel, link: channel.call(name, args), wait_timeout_s)

    def read(self, call: Callable[[ClientChannel, Link], Any], wait_timeout_s: float | None = None) -> Any:
        """``call(channel, link)``, and once more if the connection breaks meanwhile."""
        deadline = 0.0
        patience_s = self._wait_timeout_s if wait_timeout_s is None else wait_timeout_s
        link = self._places.ready
        while True:
            if link is None:
                now = self._runtime.monotonic()
                deadline = deadline or now + patience_s
                link = self._manager.link(max(0.0, deadline - now))
            channel = link.channel
            try:
                return call(channel, link)
            except ClientDisconnected:
                if channel.fate is None:
                    raise  # the server itself said so
                link = None  # the manager does not give out one that is about to be buried

    def load(self, oid: bytes, tid: bytes) -> Any:
        """loadBefore of what is not in the cache."""
        if type(oid) is not bytes or type(tid) is not bytes or len(oid) != 8 or len(tid) != 8:
            oid, tid = eight_bytes(oid), eight_bytes(tid)
        if self.prefetcher.pending and self.prefetcher.wait((oid, tid)):
            found = self.cache.loadBefore(oid, tid)
            if found is not None:
                return found

        arrived = self.arrived(oid)
        return self.read(lambda channel, link: channel.load(oid, tid, arrived))

    def arrived(self, oid: bytes) -> Callable[[Any], Any]:
        """What becomes of the reply to a load of `oid`: it is checked, and enters the cache."""
        def arrived(value: Any) -> Any:
            revision = check_revision(value)
            if revision is not None:
                data, start, end = revision
                self.cache.store(oid, start, end, data)
            return revision

        return arrived

    def prefetch(self, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for what is not in the cache, without waiting for the answers."""
        self.prefetcher.prefetch(self.link(), oids, tid)
