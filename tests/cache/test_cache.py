"""What a `ClientCache` answers, in memory of one process."""
from __future__ import annotations

import subprocess
import sys

import pytest
from zope.interface.verify import verifyClass, verifyObject

from tests.cache.truth import p64
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache.format import BASE_TEMPORARY, HEAD_SIZE
from zeo_clone.interfaces import IClientCache

A, B, C = p64(1), p64(2), p64(3)
Z64 = p64(0)


@pytest.fixture
def cache():
    made = ClientCache(size=100_000)
    yield made
    made.close()


def test_it_provides_the_interface(cache):
    assert verifyClass(IClientCache, ClientCache)
    assert verifyObject(IClientCache, cache)


def test_an_unknown_object_is_a_miss(cache):
    assert cache.load(A) is None
    assert cache.loadBefore(A, p64(9)) is None
    assert len(cache) == 0
    assert list(cache.contents()) == []


def test_a_stored_current_revision_is_loaded_with_its_tid(cache):
    cache.store(A, p64(5), None, b'data')
    for _ in range(2):
        assert cache.load(A) == (b'data', p64(5))
        assert cache.loadBefore(A, p64(6)) == (b'data', p64(5), None)
    assert len(cache) == 1


def test_a_current_revision_is_not_valid_before_its_start(cache):
    cache.store(A, p64(5), None, b'data')
    assert cache.loadBefore(A, p64(5)) is None
    assert cache.loadBefore(A, p64(4)) is None


def test_empty_data_is_data(cache):
    cache.store(A, p64(5), None, b'')
    assert cache.load(A) == (b'', p64(5))


def test_an_invalidated_revision_answers_for_the_time_it_was_valid(cache):
    cache.store(A, p64(5), None, b'old')
    cache.invalidate(A, p64(8))
    assert cache.load(A) is None
    assert cache.loadBefore(A, p64(8)) == (b'old', p64(5), p64(8))
    assert cache.loadBefore(A, p64(6)) == (b'old', p64(5), p64(8))
    assert cache.loadBefore(A, p64(9)) is None
    assert cache.loadBefore(A, p64(5)) is None


def test_old_and_new_revisions_answer_each_for_its_time(cache):
    cache.store(A, p64(5), None, b'5')
    for tid in (8, 11, 20):
        cache.invalidate(A, p64(tid))
        cache.store(A, p64(tid), None, b'%d' % tid)
    cache.store(A, p64(2), p64(5), b'2')
    expected = {2: None, 3: (b'2', 2, 5), 5: (b'2', 2, 5), 6: (b'5', 5, 8), 8: (b'5', 5, 8),
                9: (b'8', 8, 11), 12: (b'11', 11, 20), 20: (b'11', 11, 20), 21: (b'20', 20, None)}
    for before, revision in expected.items():
        if revision is not None:
            data, start, end = revision
            revision = data, p64(start), None if end is None else p64(end)
        assert cache.loadBefore(A, p64(before)) == revision, before
    assert len(cache) == 5


def test_invalidation_by_none_drops_the_current_revision_and_keeps_the_others(cache):
    cache.store(A, p64(2), p64(5), b'old')
    cache.store(A, p64(5), None, b'new')
    cache.invalidate(A, None)
    assert cache.load(A) is None
    assert list(cache.contents()) == [(A, p64(2), p64(5))]
    cache.invalidate(B, None)


@pytest.mark.parametrize('tid', [5, 4])
def test_an_invalidation_that_a_record_already_shows_changes_nothing(cache, tid):
    """C19: the load reply came before the invalidation."""
    cache.store(A, p64(5), None, b'data')
    cache.invalidate(A, p64(tid))
    cache.invalidateTransaction(p64(tid), [A])
    assert cache.load(A) == (b'data', p64(5))
    assert cache.stats()['invalidations'] == 0


def test_a_transaction_ends_all_its_oids(cache):
    for oid in (A, B, C):
        cache.store(oid, p64(5), None, b'x')
    cache.invalidateTransaction(p64(7), [A, C, p64(99)])
    assert [cache.load(oid) for oid in (A, B, C)] == [None, (b'x', p64(5)), None]
    assert cache.loadBefore(C, p64(7)) == (b'x', p64(5), p64(7))


def test_an_own_commit_replaces_what_it_changed(cache):
    for oid in (A, B):
        cache.store(oid, p64(5), None, b'old')
    cache.applyCommit(p64(7), [(A, b'new'), (B, None), (C, b'created')])
    assert cache.load(A) == (b'new', p64(7))
    assert cache.load(B) is None
    assert cache.load(C) == (b'created', p64(7))
    assert cache.loadBefore(A, p64(7)) == (b'old', p64(5), p64(7))


def test_an_own_commit_that_names_an_object_twice_keeps_one_revision(cache):
    """K4."""
    cache.store(A, p64(5), None, b'old')
    cache.applyCommit(p64(7), [(A, b'new'), (A, b'other')])
    assert cache.load(A) == (b'new', p64(7))
    assert len(cache) == 2
    cache.invalidate(A, p64(8))
    assert cache.load(A) is None


def test_the_last_tid_only_goes_forward(cache):
    assert cache.getLastTid() == Z64
    cache.setLastTid(p64(5))
    cache.setLastTid(p64(5))
    with pytest.raises(ValueError, match='cannot go back from 0000000000000005 to 0000000000000004'):
        cache.setLastTid(p64(4))
    assert cache.getLastTid() == p64(5)


def test_clear_forgets_everything(cache):
    cache.store(A, p64(5), None, b'data')
    cache.load(A)
    cache.setLastTid(p64(5))
    cache.clear()
    assert cache.load(A) is None
    assert len(cache) == cache.stats()['used'] == 0
    assert cache.getLastTid() == Z64
    cache.store(A, p64(6), None, b'again')
    assert cache.load(A) == (b'again', p64(6))


def test_the_same_revision_twice_is_kept_once(cache):
    cache.store(A, p64(5), None, b'data')
    cache.store(A, p64(2), p64(5), b'old')
    used = cache.stats()['used']
    cache.store(A, p64(5), None, b'data')
    cache.store(A, p64(2), p64(5), b'old')
    assert len(cache) == 2
    assert cache.stats()['used'] == used


# -- K4: what contradicts is dropped, and nobody is told by an assertion --------------------------------
def test_a_younger_current_revision_replaces_an_older_one(cache):
    """K4: an invalidation was missed; when the older one ended is not known."""
    cache.store(A, p64(5), None, b'old')
    cache.store(A, p64(8), None, b'new')
    assert cache.load(A) == (b'new', p64(8))
    assert list(cache.contents()) == [(A, p64(8), None)]


def test_an_older_current_revision_is_ignored(cache):
    """K4"""
    cache.store(A, p64(8), None, b'new')
    cache.store(A, p64(5), None, b'old')
    assert list(cache.contents()) == [(A, p64(8), None)]


def test_a_current_revision_that_is_known_to_have_ended_is_ignored(cache):
    """K4"""
    cache.store(A, p64(5), p64(8), b'ended')
    cache.store(A, p64(5), None, b'ended')
    cache.store(A, p64(7), None, b'impossible')
    assert list(cache.contents()) == [(A, p64(5), p64(8))]
    cache.store(A, p64(8), None, b'next')
    assert cache.load(A) == (b'next', p64(8))


def test_an_ended_revision_ends_the_current_one_that_is_the_same(cache):
    """K4"""
    cache.store(A, p64(5), None, b'data')
    cache.store(A, p64(5), p64(9), b'data')
    assert list(cache.contents()) == [(A, p64(5), p64(9))]
    assert cache.load(A) is None


def test_an_ended_revision_that_overlaps_the_current_one_drops_both(cache):
    """K4"""
    cache.store(A, p64(5), None, b'data')
    cache.store(A, p64(3), p64(9), b'other')
    assert len(cache) == 0


def test_an_ended_revision_that_is_younger_drops_the_current_one(cache):
    """K4"""
    cache.store(A, p64(5), None, b'data')
    cache.store(A, p64(7), p64(9), b'other')
    assert list(cache.contents()) == [(A, p64(7), p64(9))]


@pytest.mark.parametrize(('start', 'end'), [(3, 5), (4, 9), (7, 20), (11, 13), (6, 7), (9, 9), (9, 8)])
def test_ended_revisions_that_overlap_or_end_before_they_start_are_ignored(cache, start, end):
    """K4"""
    cache.store(A, p64(4), p64(8), b'first')
    cache.store(A, p64(10), p64(12), b'second')
    cache.store(A, p64(start), p64(end), b'third')
    assert sorted(cache.contents()) == [(A, p64(4), p64(8)), (A, p64(10), p64(12))]


# -- K6: sizes --------------------------------------------------------------------------------------------
@pytest.mark.parametrize('size', [0, 1, 15, 16, 17, BASE_TEMPORARY + HEAD_SIZE, 100])
def test_a_cache_smaller_than_an_object_keeps_nothing_and_works(size):
    """K6"""
    cache = ClientCache(size=size)
    cache.store(A, p64(5), None, b'x' * 100)
    assert cache.load(A) is None
    cache.invalidate(A, p64(6))
    cache.applyCommit(p64(7), [(A, b'y' * 100)])
    cache.setLastTid(p64(7))
    assert len(cache) == 0
    assert cache.stats()['size'] == size
    cache.clear()
    cache.close()


def test_a_cache_for_exactly_one_object_keeps_one():
    """K6"""
    cache = ClientCache(size=BASE_TEMPORARY + HEAD_SIZE + 104)
    for number in (1, 2, 3):
        cache.store(p64(number), p64(5), None, b'%d' % number * 104)
        assert cache.load(p64(number)) == (b'%d' % number * 104, p64(5))
        assert len(cache) == 1
    cache.store(p64(4), p64(5), None, b'x' * 105)
    assert cache.load(p64(3)) == (b'3' * 104, p64(5))
    cache.close()


def test_an_object_larger_than_the_cache_is_not_kept_but_its_older_revision_goes(cache):
    """K6"""
    cache.store(B, p64(4), None, b'b')
    cache.store(A, p64(5), None, b'a')
    cache.store(A, p64(6), None, b'x' * 200_000)
    assert cache.load(A) is None
    assert cache.load(B) == (b'b', p64(4))


def test_a_cache_of_more_than_4_gb():
    """K6: places beyond 32 bits; the file has holes."""
    cache = ClientCache(size=(5 << 30) + 17)
    inside.book(cache).ring.write = (4 << 30) + 160  # as if so much had been stored
    cache.store(A, p64(5), None, b'far')
    cache.store(B, p64(5), None, b'away')
    cache.invalidate(B, p64(6))
    assert cache.load(A) == (b'far', p64(5))
    assert cache.loadBefore(B, p64(6)) == (b'away', p64(5), p64(6))
    cache.close()


# -- eviction ---------------------------------------------------------------------------------------------
def test_the_oldest_goes_when_there_is_no_room(cache):
    for number in range(2000):
        cache.store(p64(number), p64(5), None, b'x' * 200)
    assert cache.load(p64(0)) is None
    assert cache.load(p64(1999)) == (b'x' * 200, p64(5))
    stats = cache.stats()
    assert stats['used'] <= stats['capacity'] <= stats['size'] == 100_000
    assert stats['objects'] == len(cache) == len(list(cache.contents()))
    assert stats['evictions'] == 2000 - len(cache)
    assert stats['used'] > 0.95 * stats['size']


def test_hot_records_survive_the_hand(cache):
    """What is read between two visits of the hand stays, however much else is stored."""
    hot = [p64(1_000_000 + number) for number in range(100)]
    for oid in hot:
        cache.store(oid, p64(5), None, b'hot' * 30)
    for number in range(10_000):
        cache.store(p64(number), p64(5), None, b'x' * 200)
        if number % 50 == 0:
            for oid in hot:
                assert cache.load(oid) == (b'hot' * 30, p64(5)), number
    assert cache.stats()['evictions'] > 9_000


def test_records_that_are_no_longer_read_go_even_if_they_were_hot(cache):
    for number in range(50):
        cache.store(p64(number), p64(5), None, b'x' * 200)
        cache.load(p64(number))
    for number in range(100, 3000):
        cache.store(p64(number), p64(5), None, b'x' * 200)
    assert [number for number in range(50) if cache.load(p64(number))] == []


def test_a_cache_in_which_everything_is_hot_still_takes_new_records(cache):
    for number in range(2000):
        cache.store(p64(number), p64(5), None, b'x' * 200)
        for other in range(max(0, number - 20), number + 1):
            cache.load(p64(other))
        assert cache.load(p64(number))


def test_old_revisions_are_evicted_like_current_ones(cache):
    for tid in range(5, 2000):
        cache.applyCommit(p64(tid), [(A, b'%d' % tid * 20)])
    kept = sorted(start for _, start, _ in cache.contents())
    assert kept[-1] == p64(1999)
    assert kept == [p64(1999 - n) for n in reversed(range(len(kept)))]
    assert len(kept) == len(cache) > 500


# -- the rest -----------------------------------------------------------------------------------------------
def test_the_numbers_tell_what_happened(cache):
    """K10"""
    cache.store(A, p64(5), None, b'12345')
    cache.load(A)
    cache.loadBefore(A, p64(9))
    cache.load(B)
    cache.invalidate(A, p64(6))
    assert cache.stats() == {
        'path': None, 'size': 100_000, 'capacity': 99_984, 'used': 48, 'memory': 48, 'objects': 1, 'hits': 2,
        'misses': 1, 'hit_bytes': 10, 'stores': 1, 'evictions': 0, 'invalidations': 1}


def test_a_closed_cache_is_empty_and_quiet(cache):
    cache.store(A, p64(5), None, b'data')
    cache.invalidate(A, p64(6))
    cache.store(A, p64(6), None, b'data')
    cache.load(A)
    cache.close()
    cache.close()
    assert cache.load(A) is None
    assert cache.loadBefore(A, p64(6)) is None
    cache.store(A, p64(7), None, b'data')
    cache.invalidateTransaction(p64(8), [A])
    cache.setLastTid(p64(8))
    cache.clear()
    cache.sync()
    assert list(cache.contents()) == []
    assert 'closed' in repr(cache)


def test_it_works_without_assertions(tmp_path):
    """K8: ``python -O``"""
    script = (
        'from zeo_clone.cache import ClientCache\n'
        f'path = {str(tmp_path / "c.zec")!r}\n'
        'for start in (1, 2):\n'
        '    cache = ClientCache(path, 50_000)\n'
        '    for n in range(1000):\n'
        '        tid = (start * 1000 + n).to_bytes(8, "big")\n'
        '        cache.applyCommit(tid, [(bytes(7) + bytes([n % 50]), b"x" * n)])\n'
        '        cache.setLastTid(tid)\n'
        '        if cache.load(bytes(7) + bytes([n % 50])) != (b"x" * n, tid): raise SystemExit("wrong")\n'
        '    cache.close()\n'
        'print(len(cache) > 10, __debug__)\n')
    done = subprocess.run([sys.executable, '-O', '-W', 'error', '-c', script], capture_output=True,
                          text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ('True False\n', '', 0)
