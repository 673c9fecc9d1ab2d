"""After a clean end the file is checked in larger pieces; nothing is believed that was not checked (7)."""
from __future__ import annotations

import random
from zlib import crc32

import pytest
from ZODB.utils import p64

from tests.cache.memory import Disk
from tests.cache.truth import Truth, audit
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache import file as file_module
from zeo_clone.cache import format as fmt
from zeo_clone.cache.index import FLAGS
from zeo_clone.cache.segments import SHIFT, SIZE, Segments

PATH, FILE_SIZE, OBJECTS = 'cache', 300_000, 400


class Reader(Disk):
    """Remembers what was read; something may happen `during` the next read."""

    def __init__(self, files=None):
        super().__init__(files)
        self.reads = []
        self.during = None

    def pread(self, path, length, at):
        self.reads.append((at, length))
        raw = super().pread(path, length, at)
        during, self.during = self.during, None
        if during is not None:
            during()
        return raw


def content(number):
    return b'%d' % number * 150


def opened(disk):
    cache = ClientCache(PATH, FILE_SIZE, runtime=disk)
    disk.reads.clear()
    return cache


@pytest.fixture(scope='module')
def closed():
    """The file of a cache that was closed."""
    disk = Reader()
    cache = opened(disk)
    for number in range(OBJECTS):
        cache.store(p64(number), p64(1), None, content(number))
    cache.setLastTid(p64(1))
    cache.close()
    return bytes(disk.files[PATH])


@pytest.fixture
def disk(closed):
    return Reader({PATH: closed})


def place(cache, number):
    return inside.book(cache).current.get(p64(number)) & ~FLAGS


def segments(cache):
    return inside.book(cache).file.segments


def first_behind(cache, segment):
    """Number and place of the first object whose record begins in `segment`, or behind it."""
    return next((number, at) for number in range(OBJECTS) if (at := place(cache, number)) >> SHIFT >= segment)


def test_a_record_is_read_with_the_segments_around_it_and_later_ones_with_more(disk):
    cache = opened(disk)
    number, _ = first_behind(cache, 2)
    found = [cache.load(p64(n)) for n in range(number, OBJECTS)]
    assert found == [(content(n), p64(1)) for n in range(number, OBJECTS)]
    assert disk.reads[:3] == [(2 * SIZE, 2 * SIZE), (4 * SIZE, 2 * SIZE), (6 * SIZE, 4 * SIZE)]
    cache.close()


def test_segments_that_did_not_change_keep_their_crcs_without_being_read(disk):
    cache = opened(disk)
    before = segments(cache).sums.tolist()
    assert sum(map(bool, before)) > 5
    number, at = first_behind(cache, 3)
    cache.load(p64(number))
    cache.invalidate(p64(number), p64(2))
    cache.setLastTid(p64(2))
    disk.reads.clear()
    cache.close()
    assert all(at < fmt.BASE_FILE for at, _ in disk.reads)  # the header
    cache = opened(disk)
    after = segments(cache).sums.tolist()
    # another one where the end was written, none where the index is now
    assert [i for i in range(len(before)) if before[i] != after[i] and after[i]] == [at >> SHIFT]
    cache.close()


@pytest.mark.parametrize('reverse', [False, True])
def test_no_flipped_bit_is_given_to_anybody(closed, reverse):
    """K11, (7) of `format`: in heads, data, padding, free space, index or crcs, whatever is read first."""
    header = fmt.parse_slots(closed[:fmt.BASE_FILE])
    cache = opened(disk := Reader({PATH: closed}))
    special = [at + offset for number in (0, 90, 200, 399) for at in [place(cache, number)]
               for offset in (0, 5, 12, fmt.START_AT, fmt.END_AT, 33, 37, fmt.HEAD_SIZE, 450)]
    cache.close()
    special += [header.snapshot_at + offset for offset in (0, 300, header.snapshot_length - 20)]
    rng = random.Random(5)
    numbers = sorted(range(OBJECTS), reverse=reverse)
    given = 0
    for at in special + rng.sample(range(fmt.BASE_FILE, FILE_SIZE), 40):
        disk = Reader({PATH: closed})
        disk.files[PATH][at] ^= 1 << rng.randrange(8)
        cache = opened(disk)
        for number in numbers:
            found = cache.load(p64(number))
            assert found in ((content(number), p64(1)), None)
            given += found is not None
        cache.close()
    assert given > OBJECTS * 40


def test_what_was_damaged_before_the_end_is_not_covered_by_a_crc(disk):
    """Crcs are made of what was checked, not of what is in the file; nor does a move make bytes true."""
    disk.files[PATH][:] = opened_without_crcs(disk)
    cache = opened(disk)
    assert not any(segments(cache).sums)
    numbers = range(100, 120)
    for number in numbers:
        at = place(cache, number)
        disk.files[PATH][at + fmt.HEAD_SIZE + 7] ^= 1
        inside.book(cache).ring.heat[at >> 9] = 1
    for number in range(1000, 1000 + OBJECTS):  # the hand goes round, hot records move
        cache.store(p64(number), p64(1), None, content(number))
    cache.close()
    cache = opened(disk)
    assert any(segments(cache).sums)
    assert {cache.load(p64(number)) for number in numbers} == {None}
    cache.close()


def opened_without_crcs(disk):
    """The file as a version that knew nothing of segments would have left it."""
    raw = bytearray(disk.files[PATH])
    header = fmt.parse_slots(raw)
    at, end = header.snapshot_at, header.snapshot_at + header.snapshot_length
    crcs = 4 * ((FILE_SIZE + SIZE - 1) >> SHIFT)
    index = bytes(raw[at:end - 8 - crcs] + raw[end - 8:end])
    raw[at:end] = index.ljust(end - at, b'\0')
    header = header._replace(snapshot_length=len(index), snapshot_crc=crc32(index))
    slot = fmt.SLOT_AT[header.sequence % 2]
    raw[slot:slot + fmt.SLOT_SIZE] = header.pack().ljust(fmt.SLOT_SIZE, b'\0')
    return bytes(raw)


def test_a_file_of_an_older_version_is_read_and_gets_crcs_as_it_is_written(disk):
    disk.files[PATH][:] = opened_without_crcs(disk)
    cache = opened(disk)
    assert [cache.load(p64(n)) for n in range(OBJECTS)] == [(content(n), p64(1)) for n in range(OBJECTS)]
    for number in range(OBJECTS, 2 * OBJECTS):
        cache.store(p64(number), p64(1), None, content(number))
    cache.close()
    cache = opened(disk)
    assert sum(map(bool, segments(cache).sums)) > 5
    cache.close()


def test_an_index_with_crcs_for_another_size_is_damaged(disk):
    """K1"""
    cache = opened(disk)
    with pytest.raises(ValueError, match='3 bytes of crcs'):
        segments(cache).load(b'xyz')
    cache.close()


def test_a_segment_written_while_it_was_read_is_not_believed(disk):
    cache = opened(disk)
    number, at = first_behind(cache, 2)
    other = number + 3
    disk.during = lambda: cache.invalidate(p64(other), p64(7))
    assert cache.load(p64(number)) == (content(number), p64(1))
    assert cache.load(p64(other)) is None
    assert cache.loadBefore(p64(other), p64(7)) == (content(other), p64(1), p64(7))
    assert not segments(cache).known[at >> SHIFT]
    cache.close()


def untrue(disk):
    """Segments of the closed file whose crcs are not those of their bytes."""
    copy = Reader(disk.files)
    cache = opened(copy)
    sums = segments(cache).sums.tolist()
    end = inside.book(cache).file.end
    raw = disk.files[PATH]
    return [n for n, crc in enumerate(sums) if crc and crc != crc32(raw[n * SIZE:min((n + 1) * SIZE, end)])]


def test_where_the_hand_is_no_segment_is_whole():
    """New records wait there to be written: the file and memory have something else."""
    raw = bytes(8 * SIZE)
    checked = Segments(8 * SIZE)
    checked.sums[1:] = checked.sums[1:].__class__('I', [crc32(raw[:SIZE])] * 7)
    first, sums = checked.wanted(SIZE, 7)
    checked.believe(first, sums, [True] * 7, raw[SIZE:], bytearray(raw), 3 * SIZE, 4 * SIZE + 1)
    assert list(checked.whole) == [0, 1, 1, 0, 0, 1, 1, 1]
    checked.passed(5 * SIZE, 6 * SIZE)
    assert list(checked.whole) == [0, 1, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize('seed', range(5))
def test_whatever_happens_between_ends_and_starts_all_is_true(seed, monkeypatch):
    """Records shorter and longer than segments, the hand goes round, ends are marked; bytes are damaged.

    Now and then memory is emptied, if the seed is odd.
    """
    monkeypatch.setattr(file_module, 'MEMORY_SIZE', 150_000 if seed % 2 else FILE_SIZE)
    monkeypatch.setattr(Reader, 'memory_size', lambda self: None)
    rng = random.Random(seed)
    disk, truth = Reader(), Truth()
    cache = opened(disk)
    believed = 0
    for _ in range(6):
        for _ in range(60):
            oids = [p64(rng.randrange(60)) for _ in range(rng.choice((1, 1, 5)))]
            tid = truth.commit({oid: rng.randbytes(rng.choice((50, 900, 9000, 20_000))) for oid in oids})
            how = rng.random()
            if how < .5:
                cache.applyCommit(tid, [(oid, truth.current(oid)[0]) for oid in dict.fromkeys(oids)])
            else:
                cache.invalidateTransaction(tid, oids)
            cache.setLastTid(tid)
            for _ in range(5):
                oid = p64(rng.randrange(60))
                current, found = truth.current(oid), cache.load(oid)
                assert found in (current, None)
                if found is None and current is not None and rng.random() < .5:
                    cache.store(oid, current[1], None, current[0])
        cache.close()
        assert untrue(disk) == []
        if rng.random() < .5:
            disk.files[PATH][rng.randrange(fmt.BASE_FILE, FILE_SIZE)] ^= 1
        cache = opened(disk)
        audit(cache, truth)
        believed += sum(segments(cache).known[:-1])
    assert believed
    cache.close()
