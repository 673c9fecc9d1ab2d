"""C10: what a killed process, a crashed machine or a full disk leave in the file; the order of writes."""
from __future__ import annotations

import logging
import shutil

import pytest

from tests.cache.files import PATH, SIZE, filled, kill, reopened
from tests.cache.memory import SYNC, WRITE, Disk
from tests.cache.truth import p64
from tests.support import inside
from tests.support.forks import told_by_child
from zeo_clone.cache import CacheLocked, ClientCache
from zeo_clone.cache.cache import SYNC_INTERVAL_S
from zeo_clone.cache.format import BASE_FILE, SLOT_AT, parse_slots

A, B = p64(1), p64(2)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'c.zec')


# -- killed, crashed ------------------------------------------------------------------------------------
def test_a_killed_process_leaves_a_warm_cache(path):
    """C10: without a clean end the records are found by their checksums."""
    cache = filled(path)
    cache.invalidateTransaction(p64(21), [p64(3)])
    cache.setLastTid(p64(21))
    before = sorted(cache.contents())
    kill(cache)
    cache = ClientCache(path, SIZE)
    assert cache.getLastTid() == p64(21)
    assert sorted(cache.contents()) == before
    cache.close()


def test_after_a_crash_of_the_machine_the_last_tid_is_that_of_the_last_sync():
    """C10"""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.sync()
    cache.applyCommit(p64(21), [(A, b'new')])
    cache.setLastTid(p64(21))
    assert reopened(disk).getLastTid() == p64(21)
    found = reopened(disk, boot=b'another boot id.')
    assert found.getLastTid() == p64(20)
    assert found.load(A) is None  # it ended after the tid that is believed
    assert found.load(B) == (b'2' * 100, p64(3))


def test_without_a_boot_identity_the_machine_may_have_crashed():
    """C10"""
    disk = Disk(boot=b'')
    cache = filled(PATH, runtime=disk)
    cache.sync()
    cache.setLastTid(p64(30))
    assert reopened(disk).getLastTid() == p64(20)


def test_a_copy_of_a_file_in_use_is_taken_for_a_crash(path, tmp_path):
    """C10"""
    cache = filled(path)
    cache.sync()
    cache.setLastTid(p64(30))
    shutil.copy(path, tmp_path / 'copy')
    copy = ClientCache(tmp_path / 'copy', SIZE)
    assert copy.getLastTid() == p64(20)
    assert len(copy) == 20
    copy.close()
    cache.close()


def test_an_unclean_file_without_a_last_tid_is_empty():
    """C10: nothing in it could be verified."""
    disk = Disk()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    cache.store(A, p64(5), None, b'data')
    cache.store(B, p64(5), p64(7), b'data')
    cache.sync()
    assert len(reopened(disk)) == 0


def test_a_current_record_younger_than_the_last_tid_does_not_survive_a_kill():
    """C10: the reply was processed, what the transaction invalidated was not."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.store(p64(99), p64(50), None, b'young')
    inside.book(cache).file.flush()
    found = reopened(disk)
    assert found.load(p64(99)) is None
    assert len(found) == 20


def test_a_dropped_record_is_dropped_in_the_file_too():
    """C10, K4: in each way in which a record can be dropped."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.invalidate(p64(1), None)
    cache.store(p64(2), p64(20), None, b'younger')
    cache.store(p64(3), p64(2), p64(9), b'overlaps')
    cache.store(p64(4), p64(7), p64(9), b'younger, ended')
    cache.setLastTid(p64(21))
    found = reopened(disk)
    assert found.getLastTid() == p64(21)
    assert sorted(found.contents()) == sorted(cache.contents())
    assert len(found) == 18


def test_an_evicted_record_is_gone_from_the_file_when_the_last_tid_moves():
    """(1) of `zeo_clone.cache.format`: no invalidation would reach it any more."""
    disk = Disk()
    cache = filled(PATH, 5000, 24, runtime=disk)
    before = set(cache.contents())
    cache.store(p64(99), p64(24), None, b'x' * 500)
    assert cache.stats()['evictions'] > 24 - len(before)
    assert set(reopened(disk, size=5000).contents()) == before  # not yet
    cache.setLastTid(p64(25))
    assert set(reopened(disk, size=5000).contents()) == set(cache.contents())


def test_an_invalidation_that_a_record_already_shows_changes_nothing_in_the_file():
    """C19"""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.store(A, p64(1), p64(2), b'old')
    inside.book(cache).file.flush()
    before, events = bytes(disk.files[PATH]), len(disk.log)
    cache.invalidate(A, p64(2))
    cache.invalidateTransaction(p64(2), [A])
    assert len(disk.log) == events
    assert disk.files[PATH] == before


def test_replaying_invalidations_is_harmless():
    """C10: after a kill they are heard again."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.invalidateTransaction(p64(25), [A, B])
    inside.book(cache).file.flush()
    found = reopened(disk)
    assert found.getLastTid() == p64(20)
    for _ in range(2):
        found.invalidateTransaction(p64(25), [A, B])
    assert found.loadBefore(A, p64(25)) == (b'1' * 100, p64(2), p64(25))
    found.setLastTid(p64(25))
    assert len(found) == 20


# -- the order of writes ----------------------------------------------------------------------------------
def headers(disk):
    """The headers written, each with the place of its write in the log."""
    return [(index, parse_slots(data.ljust(BASE_FILE, b'\0'))) for index, (kind, at, data)
            in enumerate(disk.log) if kind == WRITE and at in SLOT_AT]


def test_a_clean_end_is_said_after_a_sync_of_everything_else_and_then_synced():
    """(4) of `zeo_clone.cache.format`."""
    disk = Disk()
    filled(PATH, runtime=disk).close()
    index, header = headers(disk)[-1]
    assert header.clean
    assert [kind for kind, _, _ in disk.log[index - 1:]] == [SYNC, WRITE, SYNC]
    assert index == len(disk.log) - 2


def test_the_clean_mark_is_taken_away_and_synced_before_anything_else_changes():
    """(4) of `zeo_clone.cache.format`."""
    disk = Disk()
    filled(PATH, runtime=disk).close()
    disk = Disk(disk.files)
    cache = ClientCache(PATH, SIZE, runtime=disk)
    cache.store(A, p64(50), None, b'data')
    inside.book(cache).file.flush()
    assert [kind for kind, _, _ in disk.log[:3]] == [SYNC, WRITE, SYNC]
    assert not headers(disk)[0][1].clean
    cache.close()


def test_the_durable_tid_is_the_last_one_before_the_sync():
    """(3) of `zeo_clone.cache.format`: what came during the sync is not on the disk yet."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    sync = disk.fsync

    def slow_fsync(fd):
        sync(fd)
        cache.setLastTid(p64(30))
    inside.book(cache).file._runtime.fsync = slow_fsync
    cache.sync()
    header = headers(disk)[-1][1]
    assert (header.durable_tid, header.last_tid) == (p64(20), p64(30))


def test_the_file_is_synced_now_and_then():
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    syncs = [kind for kind, _, _ in disk.log].count(SYNC)
    cache.setLastTid(p64(30))
    assert [kind for kind, _, _ in disk.log].count(SYNC) == syncs
    disk.now += SYNC_INTERVAL_S
    cache.setLastTid(p64(31))
    cache.setLastTid(p64(32))
    assert [kind for kind, _, _ in disk.log].count(SYNC) == syncs + 1
    assert headers(disk)[-1][1].durable_tid == p64(31)


def test_without_a_thread_to_sync_in_the_cache_goes_on():
    """N12: the interpreter is ending.  The next time it is tried again."""
    disk = Disk()
    cache, start_thread = filled(PATH, runtime=disk), disk.start_thread
    syncs = [kind for kind, _, _ in disk.log].count(SYNC)

    def none(target, name):
        raise RuntimeError('cannot create new thread at interpreter shutdown')

    disk.start_thread = none
    disk.now += SYNC_INTERVAL_S
    cache.setLastTid(p64(30))
    assert [kind for kind, _, _ in disk.log].count(SYNC) == syncs
    disk.start_thread = start_thread
    disk.now += SYNC_INTERVAL_S
    cache.setLastTid(p64(31))
    assert [kind for kind, _, _ in disk.log].count(SYNC) == syncs + 1


def test_a_child_lets_go_of_the_file_and_its_parent_notices_nothing(path):
    """N10: the lock stays, too."""
    cache = filled(path)

    def child():
        cache.forsake()
        cache.close()
        return f'{cache.load(A)} {cache.loadBefore(A, p64(9))} {list(cache.contents())}'

    assert told_by_child(child) == 'None None []'
    assert cache.load(A) == (b'1' * 100, p64(2))
    with pytest.raises(CacheLocked):
        ClientCache(path, SIZE)
    cache.close()
    again = ClientCache(path, SIZE)
    assert again.load(A) == (b'1' * 100, p64(2))
    again.close()


def test_a_failed_sync_ends_trust_in_the_file(caplog):
    disk = Disk()
    cache = filled(PATH, runtime=disk)

    def fsync(fd):
        raise OSError(5, 'Input/output error')
    disk.fsync = fsync
    cache.sync()
    assert 'c.zec cannot be written: [Errno 5] Input/output error' in caplog.text
    cache.setLastTid(p64(40))
    cache.close()
    assert reopened(disk).getLastTid() == p64(20)


# -- errors of the disk -------------------------------------------------------------------------------------
def test_an_invalidation_that_cannot_be_written_empties_the_cache_and_is_not_covered_by_a_later_tid(caplog):
    """K11, C10: the full disk.  When it has room again the file says so."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.load(A)
    disk.fail = lambda at, length: 0
    cache.invalidateTransaction(p64(25), [A, B])
    disk.fail = None
    assert cache.load(A) is cache.load(B) is None
    assert len(cache) == 0
    assert caplog.text.count('fails ([Errno 28] No space left on device); the cache was emptied') == 1
    assert [record.levelname for record in caplog.records if record.levelno > logging.DEBUG] == ['WARNING']
    assert reopened(disk).getLastTid() == p64(20)
    cache.setLastTid(p64(26))
    found = reopened(disk)
    assert (found.getLastTid(), len(found)) == (p64(26), 0)


def test_a_header_that_cannot_be_written_is_written_later(caplog):
    """K11"""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    disk.fail = lambda at, length: 7
    cache.setLastTid(p64(25))
    disk.fail = lambda at, length: 0
    cache.setLastTid(p64(26))
    assert caplog.text.count('c.zec cannot be written: [Errno 28] No space left on device (7 of') == 1
    assert (cache.getLastTid(), len(cache)) == (p64(26), 20)
    assert reopened(disk).getLastTid() == p64(20)
    disk.fail = None
    cache.setLastTid(p64(27))
    found = reopened(disk)
    assert (found.getLastTid(), len(found)) == (p64(27), 20)


def test_after_clear_the_file_is_trusted_again():
    """K11: so it is after another error, if that can be said in the file."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    disk.fail = lambda at, length: 0
    cache.invalidate(A, p64(25))
    disk.fail = None
    cache.clear()
    cache.store(A, p64(25), None, b'new')
    cache.setLastTid(p64(26))
    found = reopened(disk)
    assert found.getLastTid() == p64(26)
    assert list(found.contents()) == [(A, p64(25), None)]


@pytest.mark.parametrize('operation', ['store', 'applyCommit'])
def test_a_disk_that_fills_up_makes_the_cache_smaller(caplog, operation):
    """Nobody is disturbed: the revisions that fit are kept, the cache goes on in the space that it has."""
    disk = Disk()
    cache = filled(PATH, 1 << 20, runtime=disk)
    end = len(disk.files[PATH].rstrip(b'\0')) + 10_000
    disk.fail = lambda at, length: None if at + length <= end else max(0, end - at)
    for number in range(1000):
        tid = p64(100 + number)
        if operation == 'store':
            cache.store(p64(number), tid, None, b'x' * 1000)
        else:
            cache.applyCommit(tid, [(p64(number), b'x' * 1000)])
        cache.setLastTid(tid)
    assert caplog.text.count('c.zec cannot be written: [Errno 28] No space left on device (') == 1
    stats = cache.stats()
    assert 5000 < stats['used'] <= stats['capacity'] <= end - BASE_FILE
    kept = list(cache.contents())
    assert len(kept) > 5
    for oid, start, _ in kept:
        assert cache.load(oid) == (b'x' * 1000, start)
    assert cache.load(p64(999)) == (b'x' * 1000, p64(1099))
    cache.close()
    assert reopened(disk, size=1 << 20).getLastTid() < p64(1099)
