"""Where the revisions are: oid to place in the file.  No locks, no files; the cache's lock guards it.

`PageIndex` maps an oid to one 64-bit number (a place and flags) in pages of 256 neighbouring oids, so
that a million dense oids need 9 bytes each.  A thread may read ``pages`` without the lock: a page
changes item by item and is replaced as a whole when it changes its kind.
`Revisions` maps an oid to the places of its non-current revisions, oldest first.
"""
from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence

#: In the low bits of a place.  TRUSTED: checked or written since the start, and in memory; such a record is
#: served without the lock.
TRUSTED, FLAGS = 1, 15

#: A page holds a dict up to this many oids, then an array: where their sizes cross.
SPARSE_MAX = 24
#: An array with so few oids becomes a dict again; well below, so that it does not go to and fro.
DENSE_MIN = 12

_PAGE_MASK = int.from_bytes(struct.pack('<Q', 2 ** 64 - 1 - FLAGS) * 256, 'little')
_PAGE_HEAD = struct.Struct('<7sBH')
_DICT, _ARRAY = 0, 1
_ITEM = struct.Struct('<BQ')
_LIST_HEAD = struct.Struct('<8sI')
_COUNT = struct.Struct('<Q')


class DensePage(array):  # type: ignore[type-arg]
    """256 places; 0 is none.  ``used`` is the number of others."""

    __slots__ = ('used',)
    used: int


def _dense(items: dict[int, int]) -> DensePage:
    page = DensePage('Q', bytes(2048))
    for low, value in items.items():
        page[low] = value
    page.used = len(items)
    return page


Page = dict[int, int] | DensePage


class PageIndex:
    """oid -> place | flags, for current revisions."""

    def __init__(self) -> None:
        self.pages: dict[bytes, Page] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def get(self, oid: bytes) -> int:
        """The number kept for `oid`; 0 if there is none."""
        page = self.pages.get(oid[:7])
        if page is None:
            return 0
        if type(page) is dict:
            return page.get(oid[7], 0)
        return page[oid[7]]

    def set(self, oid: bytes, value: int) -> None:
        """Keep `value`, which is not 0."""
        key, low = oid[:7], oid[7]
        page = self.pages.get(key)
        if page is None:
            self.pages[key] = {low: value}
            self.count += 1
        elif type(page) is dict:
            if low not in page:
                self.count += 1
                if len(page) >= SPARSE_MAX:
                    page = self.pages[key] = _dense(page)
                    page.used += 1
            page[low] = value
        else:
            if not page[low]:
                self.count += 1
                page.used += 1  # type: ignore[union-attr]
            page[low] = value

    def flag(self, places: list[tuple[bytes, int]]) -> None:
        """Set TRUSTED for those ``(oid, place)`` that are kept just so."""
        pages = self.pages
        for oid, place in places:
            page, low = pages.get(oid[:7]), oid[7]
            if page is None:
                continue
            if (page.get(low) if type(page) is dict else page[low]) == place:
                page[low] = place | TRUSTED

    def unflag(self) -> None:
        """Take TRUSTED from all."""
        for page in self.pages.values():
            if isinstance(page, dict):
                for low, place in page.items():
                    page[low] = place & ~FLAGS
            else:
                page[:] = _little(DensePage('Q', _without_flags(page)))

    def remove(self, oid: bytes) -> None:
        """Forget `oid`, which is known."""
        key, low = oid[:7], oid[7]
        page = self.pages[key]
        self.count -= 1
        if type(page) is dict:
            del page[low]
            if not page:
                del self.pages[key]
            return
        page[low] = 0
        page.used -= 1  # type: ignore[union-attr]
        if page.used < DENSE_MIN:  # type: ignore[union-attr]
            self.pages[key] = {low: value for low, value in enumerate(page) if value}

    def clear(self) -> None:
        self.pages.clear()
        self.count = 0

    def items_of(self, key: bytes) -> list[tuple[bytes, int]]:
        """``(oid, place)`` of one page; empty if it is gone."""
        page = self.pages.get(key, {})
        pairs = page.items() if type(page) is dict else enumerate(page)
        return [(key + bytes((low,)), value & ~FLAGS) for low, value in pairs if value]

    def items(self) -> Iterator[tuple[bytes, int]]:
        for key in list(self.pages):
            yield from self.items_of(key)

    # -- as bytes -------------------------------------------------------------------------------
    def dumped_size(self) -> int:
        """Upper bound of ``len(dump())``."""
        sparse = sum(len(page) * _ITEM.size for page in self.pages.values() if type(page) is dict)
        return _COUNT.size + len(self.pages) * (_PAGE_HEAD.size + 2048) + sparse

    def dump(self) -> bytes:
        """Number of pages, then pages: key, kind, number of items, items.  Without flags."""
        parts = [_COUNT.pack(len(self.pages))]
        for key, page in self.pages.items():
            if isinstance(page, dict):
                parts.append(_PAGE_HEAD.pack(key, _DICT, len(page)))
                parts += [_ITEM.pack(low, value & ~FLAGS) for low, value in page.items()]
            else:
                parts.append(_PAGE_HEAD.pack(key, _ARRAY, page.used))
                parts.append(_without_flags(page))
        return b''.join(parts)

    def load(self, raw: bytes) -> int:
        """Read what `dump` wrote; returns how many bytes that was."""
        self.clear()
        (pages,), at = _COUNT.unpack_from(raw), _COUNT.size
        for _ in range(pages):
            key, kind, items = _PAGE_HEAD.unpack_from(raw, at)
            at += _PAGE_HEAD.size
            if kind == _DICT:
                end = at + items * _ITEM.size
                self.pages[key] = dict(_ITEM.iter_unpack(raw[at:end]))
            else:
                end = at + 2048
                page = _little(DensePage('Q', raw[at:end]))
                page.used = items
                self.pages[key] = page
            self.count += items
            at = end
        return at


def _without_flags(page: DensePage) -> bytes:
    places = int.from_bytes(_little(page).tobytes(), 'little') & _PAGE_MASK
    return places.to_bytes(2048, 'little')


def _little(page: DensePage) -> DensePage:
    """`page` itself, or on a big-endian machine a copy with its bytes turned."""
    if sys.byteorder == 'little':
        return page
    page = DensePage('Q', page)
    page.byteswap()
    return page


class Revisions:
    """``places``: oid -> places of its non-current revisions, by start tid ascending."""

    def __init__(self) -> None:
        self.places: dict[bytes, list[int]] = {}
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def get(self, oid: bytes) -> Sequence[int]:
        """The places of `oid`."""
        return self.places.get(oid, ())

    def insert(self, oid: bytes, at: int, place: int) -> None:
        """Insert `place` at index `at` of the places of `oid`."""
        self.places.setdefault(oid, []).insert(at, place)
        self.count += 1

    def discard(self, oid: bytes, place: int) -> bool:
        """Forget `place`; True if it was known."""
        places = self.places.get(oid)
        if places is None or place not in places:
            return False
        places.remove(place)
        if not places:
            del self.places[oid]
        self.count -= 1
        return True

    def clear(self) -> None:
        self.places.clear()
        self.count = 0

    def dumped_size(self) -> int:
        """The length of `dump`'s result."""
        return _COUNT.size + len(self.places) * _LIST_HEAD.size + self.count * _COUNT.size

    def dump(self) -> bytes:
        """Number of oids, then oid, number of places, places."""
        parts = [_COUNT.pack(len(self.places))]
        for oid, places in self.places.items():
            parts.append(_LIST_HEAD.pack(oid, len(places)))
            parts.append(struct.pack(f'<{len(places)}Q', *places))
        return b''.join(parts)

    def load(self, raw: bytes, at: int) -> int:
        """Read what `dump` wrote, from `at` on; returns where that ends."""
        self.clear()
        (oids,), at = _COUNT.unpack_from(raw, at), at + _COUNT.size
        for _ in range(oids):
            oid, length = _LIST_HEAD.unpack_from(raw, at)
            at += _LIST_HEAD.size
            self.places[oid] = list(struct.unpack_from(f'<{length}Q', raw, at))
            at += length * _COUNT.size
            self.count += length
        return at
