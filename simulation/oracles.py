"""The verdict on a run: its book, compared with the history that the storage holds at the end."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from ZODB.utils import z64

from simulation.book import Attempt, Book, Fate, Life
from simulation.program import MONEY
from simulation.records import decode

if TYPE_CHECKING:
    from simulation.world import World


class History:
    """The transactions of a storage, in order, and what they say."""

    def __init__(self, transactions: list[tuple[bytes, dict[bytes, bytes]]],
                 numbers: dict[bytes, int]) -> None:
        self.numbers = numbers  # of attempts, by tid
        self.tids = [tid for tid, _ in transactions]
        self.wrote = {tid: tuple(records) for tid, records in transactions}
        self.revisions: dict[bytes, list[bytes]] = {}  # the tids of each object
        self.data: dict[tuple[bytes, bytes], bytes] = {}
        for tid, records in transactions:
            for oid, record in records.items():
                self.revisions.setdefault(oid, []).append(tid)
                self.data[oid, tid] = record

    def current(self, oid: bytes, tid: bytes) -> bytes | None:
        """The serial of `oid` as of `tid`."""
        revisions = self.revisions.get(oid, [])
        at = bisect_right(revisions, tid)
        return revisions[at - 1] if at else None

    def after(self, oid: bytes, tid: bytes) -> bytes | None:
        """The serial of `oid` that came after the one of `tid`."""
        revisions = self.revisions.get(oid, [])
        at = bisect_right(revisions, tid)
        return revisions[at] if at < len(revisions) else None


def judge(world: World) -> None:
    """Write into the book what is wrong."""
    book = world.book
    if book.faults or not world.history:
        return  # there is no end that could be compared
    tids = [tid for tid, _ in world.history]
    if tids != sorted(set(tids)):
        book.blame('the transactions of the storage are not in order')
    history = History(world.history, world.numbers)
    _attempts(book, history)
    _invariants(book, world, history)
    for seen in book.seen:
        wrong = {oid: serial for oid, serial in seen.serials.items()
                 if history.current(oid, seen.tid) != serial}
        if wrong:
            oid, serial = next(iter(wrong.items()))
            book.blame(f'{seen.client} saw {oid.hex()} as of {serial.hex()} in its snapshot of '
                       f'{seen.tid.hex()}; that was {_hex(history.current(oid, seen.tid))}')
    for name, found in book.iterated:
        _iteration(book, name, found, history)
    for life in book.lives:
        _invalidations(book, life, history)
    for name, last, exact, entries in world.caches:
        for oid, start, end, data in entries:
            _entry(book, name, last, exact, (oid, start, end, data), history)


def _hex(tid: bytes | None) -> str:
    return 'none' if tid is None else tid.hex()


def _attempts(book: Book, history: History) -> None:
    """Acknowledged: exactly once, and whole.  Refused: never.  Unknown: at most once, and whole."""
    places: dict[int, Counter[bytes]] = {}
    for _, tid in history.data:
        places.setdefault(history.numbers[tid], Counter())[tid] += 1
    for attempt in book.attempts[1:]:
        _attempt(book, attempt, places.get(attempt.number, Counter()), history)


def _attempt(book: Book, attempt: Attempt, found: Counter[bytes], history: History) -> None:
    if len(found) > 1:
        book.blame(f'{attempt!r} is in the history {len(found)} times')
    elif attempt.fate in (Fate.REFUSED, Fate.OPEN) and found:
        book.blame(f'{attempt!r} is in the history all the same, as {next(iter(found)).hex()}')
    elif attempt.fate is Fate.ACKNOWLEDGED and attempt.tid not in found:
        book.blame(f'{attempt!r} is not in the history')
    elif found and sum(found.values()) != len(attempt.oids):
        book.blame(f'{attempt!r} is in the history in part')
    elif found:
        before = (int.from_bytes(next(iter(found)), 'big') - 1).to_bytes(8, 'big')
        for oid, serial in attempt.bases.items():
            current = history.current(oid, before) or z64
            if current != serial:
                book.blame(f'{attempt!r} relied on {oid.hex()} of {serial.hex()}, and came after '
                           f'{current.hex()}')
        if attempt.undoes is not None:
            _undo(book, attempt, attempt.undoes, before, history)


def _undo(book: Book, attempt: Attempt, undone: bytes, before: bytes, history: History) -> None:
    """What was current until `before` is what `undone` wrote, and what came is what was before that."""
    tid = next(tid for tid in history.tids if tid > before)
    earlier = (int.from_bytes(undone, 'big') - 1).to_bytes(8, 'big')
    if set(history.wrote[tid]) != set(history.wrote[undone]):
        book.blame(f'{attempt!r} has not undone all of {undone.hex()}')
        return
    for oid in history.wrote[undone]:
        was, old = history.current(oid, before), history.current(oid, earlier)
        if was is None or history.data[oid, was] != history.data[oid, undone]:
            book.blame(f'{attempt!r} has undone {undone.hex()} though {oid.hex()} was written since')
        elif old is None or history.data[oid, tid] != history.data[oid, old]:
            book.blame(f'{attempt!r} has not brought back what {oid.hex()} was before {undone.hex()}')


def _invariants(book: Book, world: World, history: History) -> None:
    """The bank's total, at each moment; lists only grow."""
    balances: dict[bytes, int] = {}
    lists: dict[bytes, tuple[int, ...]] = {}
    for tid in history.tids:
        for oid in history.wrote[tid]:
            content = decode(history.data[oid, tid])
            if oid in world.accounts:
                balances[oid] = content.value
            elif oid in world.lists:
                before = lists.get(oid, ())
                if len(content.listed) > 1 and content.listed[:-1] != before:
                    book.blame(f'the list {oid.hex()} has lost something at {tid.hex()}')
                lists[oid] = content.listed
        if sum(balances.values()) != MONEY * len(world.accounts):
            book.blame(f'the bank has {sum(balances.values())} at {tid.hex()}')
            break


def _invalidations(book: Book, life: Life, history: History) -> None:
    """Told in order, each once, with all that was written, and before the last transaction moves on (C2)."""
    own = {attempt for attempt in book.attempts if attempt.client.startswith(life.client + '/')}
    numbers = {attempt.number for attempt in own}
    foreign = [tid for tid in history.tids
               if history.numbers[tid] not in numbers]
    known, anything = life.first, False
    for last, tid, oids in life.moves:
        if oids is None:
            anything = True
            continue
        _untold(book, life, _between(foreign, known, last))
        known = max(known, last)
        if tid <= last:
            if tid < last:
                book.blame(f'{life.client}, at {last.hex()}, was told of {tid.hex()} once more')
            continue  # at `last` itself: what was written is not known, it is to be asked for
        written = {oid for one in _between(foreign, last, tid) for oid in history.wrote[one]}
        missing = sorted(written - set(oids))
        if missing and not (anything and not oids):
            book.blame(f'{life.client}, at {last.hex()}, was told of transactions up to {tid.hex()}, but not '
                       f'that {missing[0].hex()} has changed')
        known, anything = tid, False
    if life.last:
        _untold(book, life, _between(foreign, known, life.last))


def _between(tids: list[bytes], after: bytes, until: bytes) -> list[bytes]:
    return tids[bisect_right(tids, after):bisect_right(tids, until)]


def _iteration(book: Book, name: str, found: list[tuple[bytes, tuple[bytes, ...]]], history: History) -> None:
    """Some transactions in a row."""
    if found:
        tids = [tid for tid, _ in found]
        at = bisect_left(history.tids, tids[0])
        expected = history.tids[at:at + len(tids)]
        if tids != expected:
            book.blame(f'{name} iterated over {[tid.hex() for tid in tids]}; the history has '
                       f'{[tid.hex() for tid in expected]} there')
        elif any(set(oids) != set(history.wrote[tid]) for tid, oids in found):
            book.blame(f'{name} iterated over transactions from {tids[0].hex()} on that were not whole')


def _untold(book: Book, life: Life, missing: list[bytes]) -> None:
    if missing:
        book.blame(f'{life.client} was not told of {missing[0].hex()} before its last transaction was later '
                   f'(C2)')


def _entry(book: Book, name: str, last: bytes, exact: bool, entry: tuple[bytes, bytes, bytes | None, bytes],
           history: History) -> None:
    """What a cache holds is true as of its last transaction.

    Behind a server in front of another one it need not be `exact`: what that has missed for a while it tells
    as one transaction, the last one.
    """
    oid, start, end, data = entry
    if history.data.get((oid, start)) != data:
        book.blame(f'the cache of {name} has a record of {oid.hex()} at {start.hex()} that never was')
        return
    after = history.after(oid, start)
    if end is not None and end != after and (exact or after is None or end < after):
        book.blame(f'the cache of {name} says that {oid.hex()} of {start.hex()} ended at {end.hex()}; '
                   f'that was {_hex(after)}')
    if end is None and after is not None and after <= last:
        book.blame(f'the cache of {name}, at {last.hex()}, says that {oid.hex()} of {start.hex()} is '
                   f'current; it ended at {after.hex()}')
