"""Own commits: what they replace ends at once, what is new may go into the file later."""
from __future__ import annotations

import os

import pytest

from tests.cache.files import PATH, SIZE, kill
from tests.cache.memory import Disk
from tests.cache.test_crash import check_invariant
from tests.cache.truth import p64
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache.cache import HIDDEN, LATE_SIZE
from zeo_clone.cache.format import HEAD_SIZE

OIDS = [p64(number) for number in range(100)]


def committed(path=None, size=1 << 20):
    """A cache after an own commit, transaction 7; all objects were there before, from 5 on."""
    cache = ClientCache(path, size)
    for oid in OIDS:
        cache.store(oid, p64(5), None, b'old')
    cache.applyCommit(p64(7), [(oid, b'new') for oid in OIDS])
    cache.setLastTid(p64(7))
    assert cache.late
    return cache


def new_revisions(cache):
    return [cache.load(oid) for oid in OIDS] == [(b'new', p64(7))] * len(OIDS)


@pytest.mark.parametrize('look', [
    lambda cache: cache.load(OIDS[3]) == (b'new', p64(7)),
    lambda cache: cache.loadBefore(OIDS[3], p64(8)) == (b'new', p64(7), None),
    lambda cache: cache.loadBefore(OIDS[3], p64(7)) == (b'old', p64(5), p64(7)),
    lambda cache: len(cache) == 2 * len(OIDS),
    lambda cache: len(list(cache.contents())) == 2 * len(OIDS),
    lambda cache: cache.stats()['stores'] == 2 * len(OIDS)])
def test_whoever_looks_sees_all_of_it(look):
    """C8: when tpc_finish returns, the cache has what was committed."""
    cache = committed()
    assert look(cache)
    assert not cache.late
    assert new_revisions(cache)
    cache.close()


@pytest.mark.parametrize('change', [
    lambda cache: cache.invalidate(OIDS[3], p64(9)),
    lambda cache: cache.invalidateTransaction(p64(9), [OIDS[3]]),
    lambda cache: cache.applyCommit(p64(9), [(OIDS[3], b'newer')])])
def test_what_comes_after_it_ends_it(change):
    """C2: late work never undoes a later change."""
    cache = committed()
    change(cache)
    assert cache.loadBefore(OIDS[3], p64(9)) == (b'new', p64(7), p64(9))
    assert cache.load(OIDS[3]) in (None, (b'newer', p64(9)))
    assert cache.load(OIDS[4]) == (b'new', p64(7))
    cache.close()


def test_settling_writes_it_and_shows_it_to_readers_without_the_lock():
    cache = committed()
    assert cache._view is HIDDEN
    cache.write_late()
    assert not cache.late
    assert cache._view is not HIDDEN
    assert not inside.book(cache).file._tail  # the next commit has nothing to write
    assert new_revisions(cache)
    cache.write_late()  # nothing to do
    cache.close()
    cache.write_late()


def test_nothing_comes_back_after_all_was_forgotten():
    cache = committed()
    cache.clear()
    cache.write_late()
    assert (len(cache), cache.load(OIDS[3]), cache.getLastTid()) == (0, None, p64(0))
    cache.close()


def test_a_load_reply_from_before_changes_nothing():
    """C19."""
    cache = committed()
    cache.store(OIDS[3], p64(5), None, b'old')
    assert new_revisions(cache)
    cache.close()


def test_a_load_reply_from_before_is_refused_although_what_it_shows_was_forgotten():
    """C19, K4: the ring has come round, and only the late revision tells that the reply is old."""
    disk = Disk()
    cache = ClientCache(PATH, 6000, runtime=disk)
    cache.store(OIDS[0], p64(5), None, b'old')
    cache.store(OIDS[1], p64(5), None, bytes(1000))
    cache.applyCommit(p64(7), [(OIDS[0], b'new')])
    for number in range(2, 6):
        cache.store(OIDS[number], p64(5), None, bytes(1000))
    cache.store(OIDS[0], p64(5), None, b'old')
    assert cache.load(OIDS[0]) == (b'new', p64(7))
    check_invariant(cache)
    cache.close()


def test_closing_keeps_it(tmp_path):
    cache = committed(tmp_path / 'c.zec')
    cache.close()
    cache = ClientCache(tmp_path / 'c.zec', SIZE)
    assert cache.getLastTid() == p64(7)
    assert new_revisions(cache)
    cache.close()


def test_a_crash_loses_what_is_late_and_shows_nothing_old(tmp_path):
    """C10: what was replaced has ended in the file before the last tid moves."""
    cache = committed(tmp_path / 'c.zec')
    kill(cache)
    cache = ClientCache(tmp_path / 'c.zec', SIZE)
    assert cache.getLastTid() == p64(7)
    assert [cache.load(oid) for oid in OIDS] == [None] * len(OIDS)
    assert cache.loadBefore(OIDS[3], p64(7)) == (b'old', p64(5), p64(7))
    cache.close()


def test_a_file_that_somebody_changed_meanwhile_is_emptied(tmp_path, caplog):
    """K4."""
    path = os.fspath(tmp_path / 'c.zec')
    size = 12_000
    cache = ClientCache(path, size)
    for number in range(2):
        cache.applyCommit(p64(7 + number), [(oid, b'x' * 40) for oid in OIDS])
        cache.write_late()
    cache.setLastTid(p64(8))
    cache.close()
    cache = ClientCache(path, size)
    cache.applyCommit(p64(9), [(p64(99), b'y' * 9000)])
    with open(path, 'r+b') as file:
        file.seek(2000)
        file.write(bytes(size - 2000))
    cache.write_late()
    assert 'the cache was emptied' in caplog.text
    assert (len(cache), cache.late) == (0, False)
    cache.store(OIDS[0], p64(9), None, b'z')
    assert cache.load(OIDS[0]) == (b'z', p64(9))
    cache.close()


def test_of_many_objects_without_data_nothing_waits():
    """Only the server knows the data of what was restored or undone."""
    cache = ClientCache(None, 1 << 20)
    new = [(oid, b'new') for oid in OIDS]
    for oid, _ in new:
        cache.store(oid, p64(5), None, b'old')
    for number in range(1000, 2000):
        cache.store(p64(number), p64(5), None, b'old')
    cache.applyCommit(p64(7), [*new, *((p64(number), None) for number in range(1000, 2000))])
    _, waiting, ended = cache._late
    assert (len(waiting), len(ended)) == (len(new), len(new))
    assert cache.load(p64(1000)) is None
    assert new_revisions(cache)
    cache.close()


@pytest.mark.parametrize('records', [
    [(oid, b'x' * (LATE_SIZE // len(OIDS))) for oid in OIDS],
    [(p64(number), b'x') for number in range(LATE_SIZE // HEAD_SIZE)], [(oid, None) for oid in OIDS], []])
def test_very_large_ones_are_done_at_once(records):
    """What waits in memory is bounded."""
    cache = ClientCache(None, 8 << 20)
    cache.applyCommit(p64(7), records)
    assert not cache.late
    assert len(cache) == sum(data is not None for _, data in records)
    cache.close()
