"""The bytes of a cache file, and why a crash cannot make them lie.  Bytes in, values out; no files.

Layout (integers big-endian; `base` is 1024, for a temporary file 16)::

    0      slot 0 of the header     256 bytes used, see `Header`
    512    slot 1 of the header
    base   the ring: blocks one after the other, each a multiple of 16 bytes long, up to `size`

    record   4s magic | I length | 8s oid | 8s start_tid | 8s end_tid | I data crc | I header crc
             | data | zero bytes up to a multiple of 16
    free     4s magic | I header crc | Q length of the block with this head

``end_tid`` is zero in a current revision, equal to ``start_tid`` in a record that is to be forgotten.  In a
temporary file ends are not written but kept in memory: nobody will read it later.
A crc of a head covers the bytes of that head before it (in a free block: around it), and starts from the
file's random salt and the place in the file.  So the image of a record means something only where it
was written and only until the salt changes (`clear`); bytes of user data never look like a record.
New records are written at the hand, which goes round the ring; what is in its way is forgotten first.
A slot has a sequence number and a crc; the valid one with the higher number counts and the other one
is written next.  At a clean end the index is written at the hand like a big record, the header says
where, and the next start reads it in one piece.  Otherwise the ring is searched for records.

Why only true records come out of it.  Call L the last tid that is believed after a start; the client
then hears of every oid changed after L and forgets what it has of them.  So all that is needed is:

(1) *When the header is written, no record valid in the file is unknown to the index.*  Evicted records
    are overwritten by what they had to go for: new records are collected (`TAIL_SIZE`), but written
    before any mark or header.  The only gap that is left over, at the end of the ring, is filled with
    zeros.  Dropped records are marked in place, which their crc covers.  So an invalidation reaches
    every image there is.  If an operation fails half-way, by an error of the disk say, the header is
    frozen: L does not move any more until the cache is cleared.
(2) *The process is killed:* the file has a prefix of the writes, the last one perhaps torn.  L is
    written after the invalidations it covers, hence is at most what the records reflect.  A torn
    record or mark fails its crc and is forgotten; a torn slot leaves the other one with an older L.
    Invalidations after L that are in the file already are heard again, which changes nothing.
(3) *The system dies:* of the writes after the last sync any subset may be there, torn at will.  The
    header carries a second tid, ``durable_tid``, the last tid at a moment from which on everything
    was synced.  It is L if the identity (boot and inode) differs from the header's.  An image that
    is valid then was already there at the sync, and knows all invalidations up to L; or it is
    younger and was current when written, after L.  Overwritten ones fail their crc or, if the
    overwriting was lost whole, were not yet overwritten at the sync: they are of the first kind.
(4) *A clean end* is believed only if the header says so, and it says so after a sync of all else;
    before the first change the mark is taken away and that is synced.  A torn or lost header leaves
    the mark away (drop to 2 or 3), or present together with the unchanged file that it describes.
(5) Two images of an oid: the younger one counts; of the same revision the ended one.  Contradictions
    and current records younger than L are forgotten.  Without an L (zero) all is forgotten.
(6) A copy of a file in use, or a file on another machine, has another identity: case 3.
(7) What the disk damages later is seen by a crc when a record is first read after a start: that of the
    record, or after a clean end one of 16 KB, which `segments` explains.

All this is about one database.  ``database`` says which it was when the header was written, zeros if that is
not known; whether it is the one that a server has, the client asks before it believes in L.  Files of the
first version do not have it.  They are read, and both slots are written anew before anything else changes,
so that the first version never finds one of its own beside a younger one that it cannot read.
"""
from __future__ import annotations

import mmap
import struct
from typing import NamedTuple
from zlib import crc32

ZERO = b'\0' * 8
ALIGN = 16  # blocks start at multiples of it; leaves 4 bits of a position free for flags
BASE_FILE, BASE_TEMPORARY = 1024, 16
SLOT_AT = (0, 512)
SLOT_SIZE = 256

RECORD_MAGIC, FREE_MAGIC = b'zcR\x81', b'zcF\x81'
HEAD = struct.Struct('>4sI8s8s8sII')
HEAD_SIZE = 40
_HEAD_BODY = struct.Struct('>4sI8s8s8sI')
_FREE = struct.Struct('>4sIQ')
FREE_SIZE = 16
START_AT, END_AT = 16, 24  # offsets of the tids; from END_AT on a head changes when a revision ends
#: From memory: ``(length, start_tid)`` of the record at a place.
LENGTH_AND_START = struct.Struct('>4xI8x8s')
#: The same from the place with its flag `index.TRUSTED`, one byte behind.
LENGTH_AND_START_FLAGGED = struct.Struct('>3xI8x8s')
#: To copy less than this is cheaper than to look at it where it is.
SMALL_COPY = 2000
_CRC = struct.Struct('>I')
_pack_crc = _CRC.pack
_pack_body = _HEAD_BODY.pack

_PADDING = tuple(bytes(-n % ALIGN) for n in range(ALIGN))

MAGIC, OLD_MAGIC = b'zeo-cc02', b'zeo-cc01'
_SLOT = struct.Struct('>8sQQII8s8s16sQQQQI16s')
_OLD_SLOT = struct.Struct('>8sQQII8s8s16sQQQQI')

assert HEAD.size == HEAD_SIZE and _HEAD_BODY.size == HEAD_SIZE - 4 and _FREE.size == FREE_SIZE
assert _SLOT.size + 4 <= SLOT_SIZE


class Damaged(Exception):
    """The file is not what we would have written; the message says what and where."""


class Header(NamedTuple):
    """What a slot says.  Positions and sizes in bytes."""

    sequence: int = 0
    size: int = 0
    salt: int = 0
    clean: int = 0
    last_tid: bytes = ZERO
    durable_tid: bytes = ZERO
    identity: bytes = bytes(16)
    write: int = 0  # the hand: where the next record goes
    front: int = 0  # end of the free space at the hand
    snapshot_at: int = 0
    snapshot_length: int = 0
    snapshot_crc: int = 0
    database: bytes = bytes(16)

    def pack(self) -> bytes:
        body = _SLOT.pack(MAGIC, *self)
        return body + _CRC.pack(crc32(body))


def parse_slots(raw: bytes) -> Header:
    """The header that counts, from the first bytes of a file.  Raises `Damaged`."""
    found = []
    for at in SLOT_AT:
        slot = _OLD_SLOT if raw.startswith(OLD_MAGIC, at) else _SLOT
        body, crc = raw[at:at + slot.size], raw[at + slot.size:at + slot.size + 4]
        if len(crc) == 4 and body.startswith((MAGIC, OLD_MAGIC)) and _CRC.unpack(crc)[0] == crc32(body):
            found.append(Header(*slot.unpack(body)[1:]))
    if not found:
        if raw[:3] == b'ZEC':
            raise Damaged('it is a cache of ZEO, whose format is another one')
        raise Damaged('it has no valid header')
    return max(found)


def is_outdated(raw: bytes) -> bool:
    """Has the header, of which these are the first bytes of the file, a slot of the first version?"""
    return any(raw.startswith(OLD_MAGIC, at) for at in SLOT_AT)


class Head(NamedTuple):
    """The head of a record that passed its crc."""

    length: int
    oid: bytes
    start_tid: bytes
    end_tid: bytes
    data_crc: int

    @property
    def dead(self) -> bool:
        return self.end_tid == self.start_tid

    @property
    def current(self) -> bool:
        return self.end_tid == ZERO


_new = tuple.__new__  # for a NamedTuple a third of what its own costs
_unpack_head = HEAD.unpack
_unpack_head_from = HEAD.unpack_from


def _seed(salt: int, at: int) -> int:
    """Where the crc of a head at `at` starts from."""
    return salt ^ (at >> 4 & 0xFFFFFFFF)


def block_size(length: int) -> int:
    """The size of the block that holds a record of `length` bytes of data."""
    return (HEAD_SIZE + length + ALIGN - 1) & -ALIGN


def record(salt: int, at: int, oid: bytes, start_tid: bytes, end_tid: bytes, data: bytes,
           data_crc: int) -> bytes:
    """The block of a record to be written at `at`."""
    length = len(data)
    body = _pack_body(RECORD_MAGIC, length, oid, start_tid, end_tid, data_crc)
    head_crc = crc32(body, salt ^ (at >> 4 & 0xFFFFFFFF))  # `_seed`, without the call
    return b'%b%b%b%b' % (body, _pack_crc(head_crc), data, _PADDING[(HEAD_SIZE + length) % ALIGN])


def parse_head(salt: int, at: int, raw: bytes) -> Head | None:
    """The head of the record at `at`, whose first 40 bytes are `raw`; None if it is not valid."""
    if len(raw) < HEAD_SIZE:
        return None
    fields = _unpack_head(raw[:HEAD_SIZE])
    if fields[0] != RECORD_MAGIC or crc32(raw[:HEAD_SIZE - 4], _seed(salt, at)) != fields[6]:
        return None
    return _new(Head, fields[1:6])


def remembered_head(salt: int, at: int, source: mmap.mmap, checked: bool) -> Head | None:
    """`parse_head` for what is in memory.  Only if it is to be `checked` the crc counts."""
    if at + HEAD_SIZE > len(source):
        return None
    fields = _unpack_head_from(source, at)
    if fields[0] != RECORD_MAGIC or (
            checked and crc32(source[at:at + HEAD_SIZE - 4], _seed(salt, at)) != fields[6]):
        return None
    return _new(Head, fields[1:6])


def whole_records(salt: int, at: int, raw: bytes, offset: int, checked: bool
                  ) -> tuple[list[tuple[bytes, int]], int]:
    """Of the valid records that follow each other in `raw`, which was read at `at`, from `offset` on: oid and
    place of each that is current, and the offset behind the last one.

    As `parse_head` and the crc of the data, if these are to be `checked`, have it; but each record that a
    first pass over a cache loads comes by here.  A current record with damaged data ends it as well: what is
    in memory at its place may be whole, and stays.
    """
    found: list[tuple[bytes, int]] = []
    view, size, last = memoryview(raw), len(raw), len(raw) - HEAD_SIZE
    while offset <= last:
        magic, length, oid, _, end_tid, data_crc, head_crc = _unpack_head_from(raw, offset)
        place, start = at + offset, offset + HEAD_SIZE
        stop = start + length
        if (magic != RECORD_MAGIC or stop > size
                or crc32(raw[offset:start - 4], salt ^ (place >> 4 & 0xFFFFFFFF)) != head_crc):
            break
        if end_tid == ZERO:
            if checked and data_crc != crc32(raw[start:stop] if length < SMALL_COPY else view[start:stop]):
                break
            found.append((oid, place))
        offset = (stop + ALIGN - 1) & -ALIGN
    return found, offset


def pack_head(salt: int, at: int, head: tuple[int, bytes, bytes, bytes, int]) -> bytes:
    """The 40 bytes of a record's head."""
    body = _pack_body(RECORD_MAGIC, *head)
    return body + _pack_crc(crc32(body, _seed(salt, at)))


def free_block(salt: int, at: int, length: int) -> bytes:
    """The head of a free block of `length` bytes at `at`."""
    crc = crc32(FREE_MAGIC + length.to_bytes(8, 'big'), _seed(salt, at))
    return _FREE.pack(FREE_MAGIC, crc, length)


def parse_free(salt: int, at: int, raw: bytes) -> int:
    """The length of the free block at `at`; 0 if there is none."""
    if len(raw) < FREE_SIZE:
        return 0
    magic, crc, length = _FREE.unpack(raw[:FREE_SIZE])
    valid = magic == FREE_MAGIC and raw[:FREE_SIZE] == free_block(salt, at, length)
    return length if valid and length % ALIGN == 0 else 0
