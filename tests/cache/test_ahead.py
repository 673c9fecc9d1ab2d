"""What is read and checked with a record, if there is no crc of more: much where one place after the other is
asked for.
"""
from __future__ import annotations

from zlib import crc32

import pytest
from ZODB.utils import p64

from tests.cache.files import kill
from tests.cache.memory import Disk
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache import format as fmt
from zeo_clone.cache.file import MOST_AHEAD, READ_AHEAD
from zeo_clone.cache.index import FLAGS

PATH, SIZE, OBJECTS = 'cache', 1 << 20, 3000


class Reader(Disk):
    """Remembers how much was read at once."""

    def __init__(self):
        super().__init__()
        self.lengths = []

    def pread(self, path, length, at):
        self.lengths.append(length)
        return super().pread(path, length, at)


def content(number):
    return b'%d' % number * 20


@pytest.fixture
def disk():
    """With the file of a cache that was killed."""
    disk = Reader()
    cache = ClientCache(PATH, SIZE, runtime=disk)
    for number in range(OBJECTS):
        cache.store(p64(number), p64(1), None, content(number))
    cache.setLastTid(p64(1))
    kill(cache)
    disk.locks.clear()
    return disk


def place(cache, number):
    return inside.book(cache).current.get(p64(number)) & ~FLAGS


def test_a_first_pass_reads_larger_and_larger_pieces(disk):
    cache = ClientCache(PATH, SIZE, runtime=disk)
    disk.lengths.clear()
    for number in range(OBJECTS):
        assert cache.load(p64(number)) == (content(number), p64(1))
    assert disk.lengths[:4] == [READ_AHEAD, 2 * READ_AHEAD, 4 * READ_AHEAD, MOST_AHEAD]
    assert set(disk.lengths[4:]) == {MOST_AHEAD}
    cache.close()


def test_loads_here_and_there_read_small_pieces(disk):
    cache = ClientCache(PATH, SIZE, runtime=disk)
    disk.lengths.clear()
    for number in (2900, 1500, 2000, 100, 2500, 1000):
        assert cache.load(p64(number)) == (content(number), p64(1))
    assert disk.lengths == [READ_AHEAD] * 6
    cache.close()


@pytest.mark.parametrize(('offset', 'others_stay'), [(fmt.HEAD_SIZE + 3, True), (fmt.START_AT, False)])
def test_a_damaged_record_in_a_large_piece_is_not_believed(disk, offset, others_stay):
    """K11, (7) of `format`: in its data; or in its head, then the ring cannot be followed any more."""
    cache = ClientCache(PATH, SIZE, runtime=disk)
    disk.pwrite(PATH, b'\xff', place(cache, 2000) + offset)
    found = [cache.load(p64(number)) for number in range(OBJECTS)]
    assert found[:2000] == [(content(number), p64(1)) for number in range(2000)]
    assert found[2000] is None
    assert found[2001:] == [(content(number), p64(1)) if others_stay else None
                            for number in range(2001, OBJECTS)]
    cache.close()


def test_what_was_damaged_after_it_was_read_stays_as_it_was_in_memory(disk):
    """K11: a piece that begins before it is read later."""
    cache = ClientCache(PATH, SIZE, runtime=disk)
    assert cache.load(p64(40)) == (content(40), p64(1))
    disk.pwrite(PATH, b'\xff', place(cache, 50) + fmt.HEAD_SIZE + 3)
    assert cache.load(p64(20)) == (content(20), p64(1))
    assert cache.load(p64(50)) == (content(50), p64(1))
    cache.close()


def slowly(salt, at, raw, offset, checked):
    """`whole_records` step by step."""
    found = []
    while True:
        head = fmt.parse_head(salt, at + offset, raw[offset:offset + fmt.HEAD_SIZE])
        start = offset + fmt.HEAD_SIZE
        if head is None or start + head.length > len(raw):
            return found, offset
        data = raw[start:start + head.length]
        if head.current and checked and crc32(data) != head.data_crc:
            return found, offset
        if head.current:
            found.append((head.oid, at + offset))
        offset += fmt.block_size(head.length)


def test_whole_records_are_those_that_are_found_step_by_step():
    """Whatever byte is damaged, wherever the piece ends."""
    raw, at = b'', 4096
    for number, (size, end) in enumerate([(5, fmt.ZERO), (100, p64(9)), (3000, fmt.ZERO), (0, fmt.ZERO)]):
        data = bytes([number]) * size
        raw += fmt.record(7, at + len(raw), p64(number), p64(1), end, data, crc32(data))
    whole = [slowly(7, at, raw, 0, True)[0]]
    assert [[oid for oid, _ in found] for found in whole] == [[p64(0), p64(2), p64(3)]]
    for length in {*range(0, len(raw), 37), len(raw)}:
        assert fmt.whole_records(7, at, raw[:length], 0, True) == slowly(7, at, raw[:length], 0, True)
    for damaged in range(0, len(raw), 3):
        piece = raw[:damaged] + bytes([raw[damaged] ^ 1]) + raw[damaged + 1:]
        for checked in (True, False):
            assert (fmt.whole_records(7, at, piece, 0, checked) == slowly(7, at, piece, 0, checked))
