"""Prefetching: loads that nobody waits for, unless somebody needs one of their objects meanwhile.

Application threads ask; the answers enter the cache in the reader's role.  From a server that offers
``load_batch`` many objects come in one reply; any other one is asked for each by itself.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from ZODB.POSException import POSKeyError

from zeo_clone.client.caching import Cache
from zeo_clone.client.link import Link
from zeo_clone.client.notices import check_revision
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.zrpc import batches
from zeo_clone.zrpc.channel.calls import Joinable
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.offers import LOAD_BATCH

#: Objects that are asked for at once: the server works on them while the next are put together.
BURST = 50
#: So many bursts may wait for their answers.
MAX_BURSTS = 20
#: Bytes of data in one reply after which the server sends no more objects in it.
BATCH_SIZE = 256 << 10

#: An object and the transaction before which it is wanted.
Key = tuple[bytes, bytes]


class Single(Joinable):
    """A load that puts its answer into the cache."""

    __slots__ = ('_prefetcher', 'channel', 'key')

    # There are thousands of these: nothing is inherited here or in `finish`.
    def __init__(self, prefetcher: Prefetcher, channel: ClientChannel, key: Key) -> None:
        self.done = False
        self.error = self.wakeup = self.joined = None
        self.channel = channel
        self._prefetcher = prefetcher
        self.key = key

    def take(self, value: Any) -> None:
        """Called by the channel: the reply."""
        revision = check_revision(value)
        if revision is not None:
            data, start, end = revision
            self._prefetcher.cache.store(self.key[0], start, end, data)

    def finish(self) -> None:
        """Called by the channel: no more will come."""
        self._prefetcher.pending.pop(self.key, None)
        self.done = True
        if self.joined:
            self.wake_joined()


class Batch(Joinable):
    """A load of several objects that puts its answer into the cache, and asks for what did not fit into it.
    """

    __slots__ = ('_prefetcher', 'channel', 'keys', 'rest')

    def __init__(self, prefetcher: Prefetcher, channel: ClientChannel, keys: list[Key]) -> None:
        super().__init__()
        self.channel = channel
        self._prefetcher = prefetcher
        self.keys = keys  # all before the same transaction
        self.rest: Batch | None = None

    def send(self) -> None:
        """Ask for them.  Never blocks."""
        try:
            self._prefetcher.pending.update(dict.fromkeys(self.keys, self))
            self.channel.begin(LOAD_BATCH, (b''.join([oid for oid, _ in self.keys]), self.keys[0][1],
                                              BATCH_SIZE), self)
        except BaseException:
            self.finish()
            raise

    def take(self, value: Any) -> None:
        """Called by the channel: the reply."""
        keys, store = self.keys, self._prefetcher.cache.store
        revisions = batches.split(value, len(keys))
        for key, revision in zip(keys, revisions, strict=False):
            if revision is not None:
                data, start, end = revision
                store(key[0], start, end, data)
        if len(revisions) < len(keys):
            self.keys = keys[:len(revisions)]
            self.rest = Batch(self._prefetcher, self.channel, keys[len(revisions):])
            self.rest.send()

    def finish(self) -> None:
        """Called by the channel: no more will come in this reply."""
        pending = self._prefetcher.pending
        for key in self.keys:
            pending.pop(key, None)
        super().finish()


class Prefetcher:
    """The loads under way that nobody asked to wait for."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.pending: dict[Key, Single | Batch] = {}  # single operations on it are atomic

    def prefetch(self, link: Link, oids: Iterable[bytes], tid: bytes) -> None:
        """Ask for what is not in the cache, without waiting for the answers."""
        channel = link.channel
        send = self._send_batch if link.offers(LOAD_BATCH) else self._send_singles
        cached, pending = self.cache.loadBefore, self.pending
        oids = [oid if type(oid) is bytes and len(oid) == 8 else eight_bytes(oid)
                for oid in dict.fromkeys(oids)]
        tid = eight_bytes(tid)
        bursts: deque[Single | Batch] = deque()  # the last load of each that was sent
        burst: list[Key] = []
        for oid in oids:
            key = oid, tid
            if key in pending or cached(oid, tid) is not None:
                continue
            burst.append(key)
            if len(burst) == BURST:
                bursts.append(send(channel, burst))
                burst = []
                if len(bursts) == MAX_BURSTS:
                    self._join(bursts.popleft())
        if burst:
            send(channel, burst)

    def wait(self, key: Key) -> bool:
        """Wait until no load of `key` is under way; was there one?"""
        waited = False
        try:
            while (pending := self.pending.get(key)) is not None:
                waited = True
                pending.channel.join(pending)
        except ClientDisconnected:
            pass  # whoever waits asks himself
        return waited

    def _join(self, last: Single | Batch | None) -> None:
        while last is not None:
            last.channel.join(last)
            last = last.rest if type(last) is Batch else None

    def _send_batch(self, channel: ClientChannel, keys: list[Key]) -> Batch:
        batch = Batch(self, channel, keys)
        batch.send()
        return batch

    def _send_singles(self, channel: ClientChannel, keys: list[Key]) -> Single:
        calls = [Single(self, channel, key) for key in keys]
        loads: list[bytes] = []
        start, pending = channel.start_load, self.pending
        try:
            try:
                for call in calls:
                    key = call.key
                    loads.append(start(key[0], key[1], call))
                    pending[key] = call  # not before: now it ends with the connection at the latest
            finally:
                channel.send_loads(loads)  # what was started is sent
        except BaseException:
            for call in calls:
                call.finish()
            raise
        return calls[-1]


def eight_bytes(value: Any) -> bytes:
    """An oid or tid as the wire wants it.  Raises POSKeyError or TypeError."""
    if isinstance(value, bytes) and len(value) == 8:
        return bytes(value)
    if isinstance(value, bytes):
        raise POSKeyError(value)
    raise TypeError(f'an oid or tid is 8 bytes, not {value!r:.50}')
