"""Several threads at one cache: nobody sees half of a change, nor waits for another one's disk."""
from __future__ import annotations

import os
import sys
import threading
from functools import partial

import pytest

from tests.cache.truth import p64
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache import cache as cache_module
from zeo_clone.cache.cache import HIDDEN
from zeo_clone.cache.format import BASE_FILE, block_size
from zeo_clone.loop.runtime import Runtime

A, B = p64(1), p64(2)


@pytest.fixture(autouse=True)
def _many_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*functions):
    """Run all in threads of their own; the first error of any."""
    errors = []

    def run(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def content(number, tid):
    return b'%d.%d.' % (number, int.from_bytes(tid, 'big')) * (number % 40 + 1)


@pytest.mark.parametrize('persistent', [False, True])
def test_readers_get_whole_records_while_the_ring_turns(tmp_path, persistent):
    cache = ClientCache(tmp_path / 'c.zec' if persistent else None, 60_000)
    done = threading.Event()
    hits = []

    def write():
        try:
            for count in range(6000):
                number, tid = count * 7 % 300, p64(count + 1)
                cache.applyCommit(tid, [(p64(number), content(number, tid))])
        finally:
            done.set()

    def read():
        found, number = 0, 0
        while not done.is_set():
            number = (number + 11) % 300
            result = cache.load(p64(number))
            if result is not None:
                found += 1
                assert result[0] == content(number, result[1])
            result = cache.loadBefore(p64(number), p64(number * 20 + 1))
            if result is not None:
                assert result[0] == content(number, result[1])
                assert result[1] < p64(number * 20 + 1) <= (result[2] or b'\xff')
        hits.append(found)
    together(write, read, read)
    assert sum(hits) > 0
    cache.close()


class Reads:
    """Lets a writer go on only after somebody looked at what it did; ends the readers, two of them."""

    def __init__(self):
        self.counted = threading.Semaphore(0)
        self.done = threading.Event()

    def write(self, steps):
        try:
            for step in steps:
                step()
                while self.counted.acquire(blocking=False):
                    pass
                for _ in range(3):  # one of three looks, by two readers, began after the step
                    assert self.counted.acquire(timeout=20)
        finally:
            self.done.set()

    def read(self, look):
        while not self.done.is_set():
            look()
            self.counted.release()


def test_a_commit_appears_at_once():
    """C9: whoever sees one of its objects new sees all of them new."""
    cache, reads = ClientCache(size=200_000), Reads()
    oids = [p64(number) for number in range(30)]
    seen = set()

    def steps():
        for number in range(1, 400):
            yield partial(cache.applyCommit, p64(number), [(oid, b'x' * 50) for oid in oids])

    def look(order):
        first, last = (cache.load(oid) for oid in order)
        if first is not None:
            seen.add(first[1])
            assert last is not None
            assert first[1] <= last[1]  # the second was read later
    together(lambda: reads.write(steps()),
             lambda: reads.read(lambda: look((oids[0], oids[-1]))),
             lambda: reads.read(lambda: look((oids[-1], oids[0]))))
    assert len(seen) > 300
    cache.close()


def test_an_invalidation_appears_at_once():
    """C9: whoever sees that one of its objects ended sees it of all."""
    cache, reads = ClientCache(size=500_000), Reads()
    oids = [p64(number) for number in range(100)]
    tids = [p64(1)]
    ended = set()

    def store(tid):
        for oid in oids:
            cache.store(oid, tid, None, b'x')
        tids.append(tid)

    def steps():
        for number in range(2, 200, 2):
            yield partial(store, p64(number))
            yield partial(cache.invalidateTransaction, p64(number + 1), oids)

    def look(order):
        before = p64(int.from_bytes(tids[-1], 'big') + 1)
        first, last = (cache.loadBefore(oid, before) for oid in order)
        if first is not None and first[2] is not None:
            ended.add(first[2])
            assert last is None or last[2] == first[2]
    together(lambda: reads.write(steps()),
             lambda: reads.read(lambda: look((oids[0], oids[-1]))),
             lambda: reads.read(lambda: look((oids[-1], oids[0]))))
    assert len(ended) > 50
    cache.close()


class Trap:
    """In the place of the heat: what happens between a reader's look into the index and at the data."""

    def __init__(self, action):
        self.action = action

    def __setitem__(self, index, value):
        self.action()


def other_stores(cache):
    for number in range(1000, 1100):
        cache.store(p64(number), p64(5), None, b'y' * 300)


@pytest.mark.parametrize('read', [lambda cache: cache.load(A), lambda cache: cache.loadBefore(A, p64(9))])
@pytest.mark.parametrize('action', [
    other_stores, lambda cache: cache.clear(), lambda cache: cache.invalidate(A, None),
    lambda cache: cache.close()], ids=['evict', 'clear', 'invalidate', 'close'])
def test_a_reader_without_the_lock_notices_what_happened_meanwhile(read, action):
    cache = ClientCache(size=20_000)
    cache.store(A, p64(5), None, b'x' * 300)
    inside.book(cache).flush()
    pages, mapped, _, whole = cache._view
    cache._view = (pages, mapped, Trap(lambda: None), whole)
    assert read(cache)[:2] == (b'x' * 300, p64(5))
    cache._view = (pages, mapped, Trap(lambda: action(cache)), whole)
    assert read(cache) is None
    cache.close()


@pytest.mark.parametrize('change', ['invalidateTransaction', 'applyCommit', 'write_late'])
def test_readers_without_the_lock_find_nothing_during_a_change(change, monkeypatch):
    """C9: so they wait for the lock, and for the end of the change."""
    if change == 'applyCommit':
        monkeypatch.setattr(cache_module, 'LATE_SIZE', 0)  # nothing is left for later
    cache = ClientCache(size=20_000)
    views = []

    if change == 'invalidateTransaction':
        cache.store(A, p64(5), None, b'data')
        end = inside.book(cache).end
        inside.book(cache).end = lambda *args: (views.append(cache._view), end(*args))
        cache.invalidateTransaction(p64(6), iter([B, A]))
        assert cache.load(A) is None
    else:
        store = inside.book(cache).store
        inside.book(cache).store = lambda *args: (views.append(cache._view), store(*args))
        cache.applyCommit(p64(6), [(A, b'data')])
        if change == 'write_late':
            assert not views
            views.append(cache._view)
            cache.write_late()
    assert views
    assert all(view is HIDDEN for view in views)
    assert cache._view is not HIDDEN
    cache.close()


class SlowDisk(Runtime):
    """A disk on which the first read of one place takes until ``go`` is set."""

    def __init__(self):
        self.slow_at = None
        self.reached = threading.Event()
        self.go = threading.Event()

    def pread(self, fd, length, at):
        data = os.pread(fd, length, at)
        if at == self.slow_at:
            self.slow_at = None
            self.reached.set()
            assert self.go.wait(20)
        return data


def reopened(path, disk):
    cache = ClientCache(path, 100_000)
    for number in range(50):
        cache.store(p64(number), p64(5), None, b'%d' % number * 100)
    cache.setLastTid(p64(5))
    cache.close()
    cache = ClientCache(path, 100_000, runtime=disk)
    disk.slow_at = inside.book(cache).current.get(A)
    return cache


def test_nobody_waits_for_another_ones_disk_read(tmp_path):
    disk = SlowDisk()
    cache = reopened(tmp_path / 'c.zec', disk)
    found = []
    thread = threading.Thread(target=lambda: found.append(cache.load(A)))
    thread.start()
    assert disk.reached.wait(20)
    for number in range(2, 50):
        assert cache.load(p64(number)) == (b'%d' % number * 100, p64(5))
    cache.store(p64(99), p64(5), None, b'new')
    cache.invalidate(B, p64(6))
    assert found == []
    disk.go.set()
    thread.join()
    assert found == [(b'1' * 100, p64(5))]
    cache.close()


@pytest.mark.parametrize('change', ['invalidate', 'evict', 'replace', 'clear', 'close'])
def test_what_changes_during_a_disk_read_is_not_returned(tmp_path, change):
    """The record is gone, or its place has other bytes, when the slow read comes back."""
    disk = SlowDisk()
    cache = reopened(tmp_path / 'c.zec', disk)
    found = []
    thread = threading.Thread(target=lambda: found.append(cache.load(A)))
    thread.start()
    assert disk.reached.wait(20)
    expected = None
    if change == 'invalidate':
        cache.invalidate(A, p64(6))
    elif change == 'evict':
        for number in range(100, 2000):
            cache.store(p64(number), p64(5), None, b'x' * 300)
    elif change == 'replace':
        cache.applyCommit(p64(7), [(A, b'replaced')])
        expected = b'replaced', p64(7)
    elif change == 'clear':
        cache.clear()
    else:
        cache.close()
    disk.go.set()
    thread.join()
    if change == 'evict' and found[0] is not None:  # hot, so it was moved
        assert found == [(b'1' * 100, p64(5))]
    else:
        assert found == [expected]
    cache.close()


def test_a_record_replaced_at_the_same_place_during_a_disk_read_is_not_returned(tmp_path):
    """The index says the same as before, and yet the bytes are old: how far the hand went tells."""
    path, size, disk = tmp_path / 'c.zec', BASE_FILE + block_size(100), SlowDisk()
    cache = ClientCache(path, size)
    cache.store(A, p64(5), None, b'o' * 100)
    cache.setLastTid(p64(5))
    cache.close()
    cache = ClientCache(path, size, runtime=disk)
    place = disk.slow_at = inside.book(cache).current.get(A)
    found = []
    thread = threading.Thread(target=lambda: found.append(cache.load(A)))
    thread.start()
    assert disk.reached.wait(20)
    cache.applyCommit(p64(6), [(A, b'n' * 100)])
    cache.write_late()
    assert inside.book(cache).current.get(A) & ~15 == place
    disk.go.set()
    thread.join()
    assert found == [(b'n' * 100, p64(6))]
    cache.close()
