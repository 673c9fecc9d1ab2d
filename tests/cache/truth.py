"""What the server knows: the truth that every entry of a cache is held against."""
from __future__ import annotations

from bisect import bisect_left


def p64(number):
    return number.to_bytes(8, 'big')


class Truth:
    """A storage with all its history: ``revisions[oid]`` is ``[(tid, data), ...]``, ascending."""

    def __init__(self):
        self.revisions = {}
        self.transactions = []  # (tid, oids)
        self.last = 0

    def commit(self, changes, step=1):
        """A transaction that writes `changes`, a dict oid -> data; its tid."""
        self.last += step
        tid = p64(self.last)
        for oid, data in changes.items():
            self.revisions.setdefault(oid, []).append((tid, data))
        self.transactions.append((tid, list(changes)))
        return tid

    def current(self, oid):
        """``(data, tid)`` or None."""
        history = self.revisions.get(oid)
        return (history[-1][1], history[-1][0]) if history else None

    def before(self, oid, tid):
        """``(data, start, end or None)`` or None."""
        history = self.revisions.get(oid, [])
        index = bisect_left(history, (tid,))
        if not index:
            return None
        start, data = history[index - 1]
        return data, start, history[index][0] if index < len(history) else None

    def changed_since(self, tid):
        """oids changed after `tid`."""
        return sorted({oid for t, oids in self.transactions if t > tid for oid in oids})

    def complaint(self, oid, data, start, end, last_tid):
        """Why a cache that has heard of all up to `last_tid` must not have this entry; None if it may."""
        history = self.revisions.get(oid, [])
        index = bisect_left(history, (start,))
        if index == len(history) or history[index][0] != start:
            return f'{oid.hex()} has no revision {start.hex()}'
        if history[index][1] != data:
            return f'{oid.hex()} {start.hex()}: other data'
        following = history[index + 1][0] if index + 1 < len(history) else None
        if end is None:
            if following is not None and following <= last_tid:
                return f'{oid.hex()} {start.hex()}: shown as current, but changed by {following.hex()}'
        elif end != following:
            return f'{oid.hex()} {start.hex()}: ends at {end.hex()}, not at {following and following.hex()}'
        return None


def audit(cache, truth):
    """All entries of `cache` are true, and are read as such; their number."""
    last_tid = cache.getLastTid()
    entries = list(cache.contents())
    for oid, start, end in entries:
        found = cache.loadBefore(oid, end or b'\xff' * 8)
        if found is None:
            continue  # seen to be damaged when read
        data, found_start, found_end = found
        complaint = truth.complaint(oid, data, found_start, found_end, last_tid)
        assert complaint is None, complaint
        assert (found_start, found_end) == (start, end)
    assert len({(oid, start) for oid, start, _ in entries}) == len(entries)
    return len(entries)


