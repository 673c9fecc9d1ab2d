"""The cache in a file: closed and opened again, killed, resized, locked, damaged."""
from __future__ import annotations

import logging
import os
import subprocess
import sys
from zlib import crc32

import pytest
from ZODB.FileStorage import FileStorage

from tests.cache.files import PATH, SIZE, filled, kill, reopened
from tests.cache.memory import TRUNCATE, WRITE, Disk, killed_image
from tests.cache.truth import p64
from tests.support import inside
from zeo_clone.cache import CacheLocked, ClientCache
from zeo_clone.cache import format as fmt
from zeo_clone.cache.format import block_size, parse_slots
from zeo_clone.Exceptions import ClientStorageError

A, B, C = p64(1), p64(2), p64(3)
Z64 = p64(0)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'c.zec')


# -- closed and opened again --------------------------------------------------------------------------
def test_a_closed_cache_is_opened_with_all_it_had(path):
    cache = filled(path)
    cache.invalidate(p64(3), p64(20))
    cache.store(p64(3), p64(20), None, b'new')
    before, used = sorted(cache.contents()), cache.stats()['used']
    cache.close()
    cache = ClientCache(path, SIZE)
    assert cache.getLastTid() == p64(20)
    assert sorted(cache.contents()) == before
    assert (cache.stats()['used'], len(cache)) == (used, 21)
    for number in range(20):
        expected = (b'new', p64(20)) if number == 3 else (b'%d' % number * 100, p64(number + 1))
        for _ in range(2):
            assert cache.load(p64(number)) == expected
    assert cache.loadBefore(p64(3), p64(20)) == (b'3' * 100, p64(4), p64(20))
    cache.close()


def test_a_cache_full_of_dense_pages_is_opened_with_all_but_the_oldest(path):
    """The index is written over the oldest records, and no image of one of these is left."""
    cache = filled(path, 500_000, 3000)
    before = set(cache.contents())
    cache.close()
    cache = ClientCache(path, 500_000)
    after = set(cache.contents())
    assert after < before
    assert len(after) > 0.95 * len(before)
    kill(cache)
    cache = ClientCache(path, 500_000)
    assert set(cache.contents()) == after
    cache.close()


def test_the_file_keeps_its_size(path):
    cache = filled(path, objects=3000)
    assert os.path.getsize(path) == SIZE
    cache.close()
    assert os.path.getsize(path) == SIZE


def test_a_cache_too_small_for_its_index_is_searched_at_the_next_start(path, caplog):
    caplog.set_level(logging.INFO)
    cache = filled(path, 1400, 2)
    cache.close()
    cache = ClientCache(path, 1400)
    assert len(cache) == 2
    assert 'was not closed; 2 revisions as of transaction 0000000000000002' in caplog.text
    cache.close()


# -- other sizes --------------------------------------------------------------------------------------------
def test_a_larger_size_keeps_everything(path):
    cache = filled(path, objects=600)
    before = set(cache.contents())
    cache.close()
    cache = ClientCache(path, 3 * SIZE)
    assert os.path.getsize(path) == 3 * SIZE
    after = set(cache.contents())
    assert after <= before
    assert len(after) > 0.9 * len(before)
    for number in range(1000, 2000):
        cache.store(p64(number), p64(600), None, b'x' * 100)
    assert cache.stats()['used'] > 2.9 * SIZE
    cache.close()


def test_a_smaller_size_keeps_what_fits(path):
    cache = filled(path, objects=600)
    before = set(cache.contents())
    cache.close()
    cache = ClientCache(path, SIZE // 2)
    assert os.path.getsize(path) == SIZE // 2
    after = set(cache.contents())
    assert after < before
    assert len(after) > 0.4 * len(before)
    for oid, start, _ in after:
        assert cache.load(oid) == (b'%d' % int.from_bytes(oid, 'big') * 100, start)
    for number in range(1000, 1600):
        cache.store(p64(number), p64(600), None, b'x' * 100)
    cache.close()


def test_a_record_cut_by_a_smaller_size_does_not_come_back_with_a_larger_one():
    """Its data ends in zeros, which is what a longer file has there."""
    disk = Disk()
    cache = ClientCache(PATH, 8000, runtime=disk)
    cache.store(A, p64(1), None, b'a' * 2000)
    cache.store(C, p64(1), None, b'c' * 100)
    cache.store(B, p64(1), None, bytes(2000))
    cache.setLastTid(p64(1))
    disk.files[PATH][disk.files[PATH].index(b'c' * 100)] ^= 1  # so a gap begins before the record that is cut
    for size in (4000, 8000):
        disk = Disk(disk.files)
        cache = ClientCache(PATH, size, runtime=disk)
        assert [oid for oid, _, _ in cache.contents()] == [A]
    assert [oid for oid, _, _ in reopened(disk, size=8000).contents()] == [A]


@pytest.mark.parametrize('cut', [False, True])
def test_killed_while_it_was_made_smaller(cut):
    """What fits is kept, what lay behind the new end is gone, whether the file was cut or not."""
    disk = Disk()
    cache = ClientCache(PATH, 6000, runtime=disk)
    for number in range(5):
        cache.store(p64(number), p64(1), None, b'x' * 800)
    cache.setLastTid(p64(1))
    cache.close()
    base = bytes(disk.files[PATH])
    disk = Disk(disk.files)
    ClientCache(PATH, 3000, runtime=disk)
    events = next(i for i, event in enumerate(disk.log) if event[:2] == (TRUNCATE, 3000)) + cut
    disk = Disk({PATH: killed_image(base, disk.log, events)})
    assert len(disk.files[PATH]) == (3000 if cut else 6000)
    cache = ClientCache(PATH, 3000, runtime=disk)
    assert len(disk.files[PATH]) == 3000
    kept = set(cache.contents())
    assert 0 < len(kept) < 5
    cache.close()
    cache = ClientCache(PATH, 6000, runtime=disk)
    assert set(cache.contents()) == kept
    assert set(reopened(disk, size=6000).contents()) == kept


def test_data_that_looks_like_a_record_is_not_taken_for_one():
    """A record means something only at its place, even if the one around it is torn."""
    disk = Disk()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    cache.store(A, p64(1), None, b'a' * 100)
    inside.book(cache).file.flush()
    at = disk.files[PATH].index(A + p64(1)) - 8
    image = bytes(disk.files[PATH][at:at + block_size(100)])
    cache.store(B, p64(2), None, bytes(8) + image)  # 48 bytes after the block's begin, so aligned
    cache.invalidate(A, None)
    cache.setLastTid(p64(2))
    assert list(reopened(disk).contents()) == [(B, p64(2), None)]
    disk.files[PATH][at + block_size(100)] ^= 1
    assert list(reopened(disk).contents()) == []


def test_records_from_before_clear_are_not_found_again():
    """C10: the salt has changed."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.clear()
    cache.store(A, p64(25), None, b'new')
    cache.setLastTid(p64(30))
    assert list(reopened(disk).contents()) == [(A, p64(25), None)]


# -- K1: files that are not ours ----------------------------------------------------------------------------
def other_files():
    disk = Disk()
    filled(PATH, runtime=disk).close()
    ours = bytes(disk.files[PATH])
    clean = parse_slots(ours)
    at = clean.snapshot_at + 20
    yield 'text', b'Hello!\n' * 1000, 'it has no valid header'
    yield 'short', b'x', 'it has no valid header'
    yield 'zeros', bytes(20_000), 'it has no valid header'
    yield 'ZEO', b'ZEC3' + bytes(20_000), 'it is a cache of ZEO, whose format is another one'
    yield 'other version', ours.replace(b'zeo-cc02', b'zeo-cc99'), 'it has no valid header'
    yield 'cut', ours[:SIZE // 2], f'it has {SIZE // 2} of {SIZE} bytes'
    yield 'cut in the header', ours[:1000], 'it has 1000 of 50000 bytes'
    yield 'index', ours[:at] + b'?' + ours[at + 1:], f'its index at {clean.snapshot_at} is broken'


def test_a_database_is_not_taken_for_a_damaged_cache(path):
    """K1: nor moved away, whoever has mistaken its name for that of a cache."""
    FileStorage(path).close()
    with open(path, 'rb') as file:
        data = file.read()
    with pytest.raises(FileExistsError, match='database of a FileStorage; name another file for the cache'):
        ClientCache(path, SIZE)
    with open(path, 'rb') as file:
        assert file.read() == data
    assert not os.path.exists(path + '.bad')


@pytest.mark.parametrize(('data', 'why'), [pytest.param(*rest, id=name) for name, *rest in other_files()])
def test_a_file_that_is_not_a_cache_is_moved_aside(path, caplog, data, why):
    """K1"""
    with open(path, 'wb') as file:
        file.write(data)
    cache = ClientCache(path, SIZE)
    assert len(cache) == 0
    assert cache.getLastTid() == Z64
    assert why in caplog.text
    assert f'It was moved to {path}.bad; an empty cache takes its place.' in caplog.text
    cache.store(A, p64(5), None, b'data')
    cache.setLastTid(p64(5))
    cache.close()
    with open(path + '.bad', 'rb') as file:
        assert file.read() == data
    cache = ClientCache(path, SIZE)
    assert cache.load(A) == (b'data', p64(5))
    cache.close()


def test_an_empty_file_is_a_new_cache(path, caplog):
    open(path, 'wb').close()
    ClientCache(path, SIZE).close()
    assert caplog.text == ''
    assert not os.path.exists(path + '.bad')


def test_a_path_that_cannot_be_opened_is_an_error_with_its_name(tmp_path):
    with pytest.raises(OSError, match='nowhere'):
        ClientCache(tmp_path / 'nowhere' / 'c.zec', SIZE)
    with pytest.raises(OSError, match='Is a directory'):
        ClientCache(tmp_path, SIZE)


def test_a_record_damaged_on_the_disk_is_dropped_when_it_is_read(path, caplog):
    """K4: and the server is asked."""
    filled(path).close()
    with open(path, 'r+b') as file:
        data = file.read()
        at = data.index(b'7' * 100)
        file.seek(at + 50)
        file.write(b'?')
    cache = ClientCache(path, SIZE)
    assert cache.load(p64(7)) is None
    assert 'has a damaged record of object 0000000000000007' in caplog.text
    assert cache.load(p64(8)) == (b'8' * 100, p64(9))
    assert len(cache) == 19
    cache.store(p64(7), p64(8), None, b'7' * 100)
    assert cache.load(p64(7)) == (b'7' * 100, p64(8))
    cache.close()


def test_an_old_revision_damaged_on_the_disk_is_dropped_when_it_is_read(path):
    """K4"""
    cache = filled(path)
    cache.invalidate(p64(7), p64(20))
    cache.close()
    with open(path, 'r+b') as file:
        file.seek(file.read().index(b'7' * 100) + 50)
        file.write(b'?')
    cache = ClientCache(path, SIZE)
    assert cache.loadBefore(p64(7), p64(20)) is None
    assert len(cache) == 19
    cache.close()


def test_a_head_damaged_on_the_disk_empties_the_cache_when_the_hand_meets_it(path, caplog):
    """K4: where the next record begins is not known; the last tid stays, for the client relies on it."""
    cache = filled(path, objects=600)
    cache.close()
    front = inside.book(cache).ring.front
    with open(path, 'r+b') as file:
        file.seek(front)
        file.write(b'?')
    cache = ClientCache(path, SIZE)
    for number in range(1000, 1100):
        cache.store(p64(number), p64(600), None, b'x' * 100)
    assert f'is damaged (no block at {front}); the cache was emptied' in caplog.text
    assert cache.getLastTid() == p64(600)
    assert cache.load(p64(1099)) == (b'x' * 100, p64(600))
    cache.setLastTid(p64(700))
    contents = sorted(cache.contents())
    assert 0 < len(contents) <= 100
    kill(cache)
    cache = ClientCache(path, SIZE)
    assert sorted(cache.contents()) == contents
    cache.close()


# -- K2: one process at a time ------------------------------------------------------------------------------
HOLDER = '''
import sys
from zeo_clone.cache import ClientCache
cache = ClientCache(sys.argv[1], 50000)
print('ready', flush=True)
sys.stdin.read()
cache.close()
'''


def test_a_second_process_is_told_the_file_and_who_holds_it(path):
    """K2"""
    holder = subprocess.Popen([sys.executable, '-c', HOLDER, path], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == 'ready\n'
        with pytest.raises(CacheLocked) as caught:
            ClientCache(path, SIZE)
        holder.stdin.close()
    assert path in str(caught.value)
    assert f'in use by process {holder.pid} on ' in str(caught.value)
    assert issubclass(CacheLocked, ClientStorageError)
    ClientCache(path, SIZE).close()


def test_a_second_cache_in_the_same_process_is_refused_too(path):
    """K2"""
    cache = ClientCache(path, SIZE)
    for _ in range(2):
        with pytest.raises(CacheLocked, match=f'process {os.getpid()} on '):
            ClientCache(path, SIZE)
    cache.close()
    ClientCache(path, SIZE).close()


def test_an_opening_that_fails_gives_the_lock_back(path):
    disk = Disk()
    disk.fail = lambda at, length: 0
    with pytest.raises(OSError, match='No space left'):
        ClientCache(PATH, SIZE, runtime=disk)
    assert disk.locks == set()
    disk.fail = None
    filled(PATH, runtime=disk).close()
    disk.fail = lambda at, length: 0
    with pytest.raises(OSError, match='No space left'):
        ClientCache(PATH, SIZE, runtime=disk)
    assert disk.locks == set()


# -- which database it is of, and the first version of the header, which does not say ------------------------
def first_version(image):
    """The file as the first version of this format would have left it."""
    for at in fmt.SLOT_AT:
        slot = image[at:at + fmt._SLOT.size]
        if slot.startswith(fmt.MAGIC):
            body = fmt._OLD_SLOT.pack(fmt.OLD_MAGIC, *fmt._SLOT.unpack(slot)[1:-1])
            body += crc32(body).to_bytes(4, 'big')
            image[at:at + len(slot) + 4] = body.ljust(len(slot) + 4, b'\0')


def test_the_database_is_remembered(path):
    """C22: over a clean end, a kill, and a dropped cache."""
    cache = filled(path)
    assert cache.database == bytes(16)
    cache.database = b'd' * 16
    cache.close()
    cache = ClientCache(path, SIZE)
    assert cache.database == b'd' * 16
    cache.database = b'e' * 16
    kill(cache)
    cache = ClientCache(path, SIZE)
    assert (cache.database, cache.getLastTid(), len(cache)) == (b'e' * 16, p64(20), 20)
    cache.clear()
    kill(cache)
    cache = ClientCache(path, 2 * SIZE)
    assert cache.database == b'e' * 16
    cache.close()
    cache = ClientCache(None, SIZE)
    assert cache.database == bytes(16)
    cache.close()


@pytest.mark.parametrize('how', ['closed', 'killed'])
def test_a_cache_of_the_first_version_is_used(how):
    """K1, C22: it is as good as before, of a database that is not known."""
    disk = Disk()
    cache = filled(PATH, runtime=disk)
    cache.close() if how == 'closed' else kill(cache)
    first_version(disk.files[PATH])
    disk = Disk(disk.files)
    cache = ClientCache(PATH, SIZE, runtime=disk)
    assert (cache.database, cache.getLastTid(), len(cache)) == (bytes(16), p64(20), 20)
    assert cache.load(p64(3)) == (b'3' * 100, p64(4))
    assert not fmt.is_outdated(bytes(disk.files[PATH]))  # at once: nothing of it is for the first version


def test_no_crash_leaves_the_first_version_something_to_believe():
    """K1: while the header is written anew, each slot of the first version says what is true of the file, or
    both are gone; no record is written before."""
    disk = Disk()
    filled(PATH, runtime=disk).close()
    first_version(disk.files[PATH])
    disk = Disk(disk.files)
    before = bytes(disk.files[PATH])
    cache = ClientCache(PATH, SIZE, runtime=disk)
    places = [at for kind, at, _ in disk.log if kind == WRITE]
    assert sorted(places) == list(fmt.SLOT_AT)
    assert bytes(disk.files[PATH])[fmt.BASE_FILE:] == before[fmt.BASE_FILE:]
    cache.close()
