"""The verdict on a run: its book, compared with the history that the storage holds at the end."""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from ZODB.utils import z64

from simulation.book import Attempt, Book, Fate, Kept, Life, Seen
from simulation.records import MONEY, decode

if TYPE_CHECKING:
    from simulation.world import World


Blame = Callable[[str], object]


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
    pasts = [History(history, world.numbers) for history in (world.history, *world.lost_pasts)]
    for history in pasts:
        if history.tids != sorted(set(history.tids)):
            book.blame('the transactions of the storage are not in order')
        _invariants(book, world, history)
    judge_attempts(book, pasts)
    for seen in book.seen:
        _in_one(book, pasts, partial(_snapshot, seen))
    for name, found in book.iterated:
        _in_one(book, pasts, partial(_iteration, name, found))
    for life in book.lives:
        own = {attempt.number for attempt in book.attempts if attempt.client.startswith(life.client + '/')}
        _in_one(book, pasts, partial(_invalidations, life, own))
    for kept in world.caches:
        for entry in kept.entries:
            _in_one(book, pasts[:1] if kept.is_final else pasts, partial(_entry, kept, entry))


def _in_one(book: Book, pasts: list[History], check: Callable[[History, Blame], None]) -> None:
    """It has to be right in one of the pasts; where no backup was restored there is one."""
    wrong: list[list[str]] = []
    for history in pasts:
        wrong.append([])
        check(history, wrong[-1].append)
        if not wrong[-1]:
            return
    for one in wrong[0]:
        book.blame(one)


def _hex(tid: bytes | None) -> str:
    return 'none' if tid is None else tid.hex()


def judge_attempts(book: Book, pasts: list[History]) -> None:
    """Acknowledged: exactly once, and whole.  Refused: never.  Unknown: at most once, and whole.

    Who asks after a backup was restored is told of a transaction that it does not have that it is refused.
    """
    places: dict[int, Counter[bytes]] = {}
    there: dict[bytes, History] = {}
    for history in pasts:
        for tid in history.tids:
            if there.setdefault(tid, history) is history:
                places.setdefault(history.numbers[tid], Counter())[tid] += len(history.wrote[tid])
    for attempt in book.attempts[1:]:
        found = places.get(attempt.number, Counter())
        history = there[next(iter(found))] if found else pasts[0]
        if attempt.fate is Fate.REFUSED and attempt.past and history is not pasts[0]:
            continue
        _attempt(book, attempt, found, history)


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
            if oid in attempt.adds:
                continue
            current = history.current(oid, before) or z64
            if current != serial:
                book.blame(f'{attempt!r} relied on {oid.hex()} of {serial.hex()}, and came after '
                           f'{current.hex()}')
        _counters(book, attempt, next(iter(found)), before, history)
        if attempt.undoes is not None:
            _undo(book, attempt, attempt.undoes, before, history)


def _counters(book: Book, attempt: Attempt, tid: bytes, before: bytes, history: History) -> None:
    """Each has got what was to be added, to whatever it was."""
    for oid, amount in attempt.adds.items():
        was = history.current(oid, before)
        old = 0 if was is None else decode(history.data[oid, was]).value
        new = decode(history.data[oid, tid]).value
        if new != old + amount:
            book.blame(f'{attempt!r} should add {amount} to {oid.hex()}, which was {old} and is {new}')


def _undo(book: Book, attempt: Attempt, undone: bytes, before: bytes, history: History) -> None:
    """What was current until `before` is what `undone` wrote, and what came is what was before that."""
    tid = next(tid for tid in history.tids if tid > before)
    earlier = (int.from_bytes(undone, 'big') - 1).to_bytes(8, 'big')
    if set(history.wrote[tid]) != set(history.wrote[undone]):
        book.blame(f'{attempt!r} has not undone all of {undone.hex()}')
        return
    for oid in (oid for oid in history.wrote[undone] if oid not in attempt.adds):
        was, old = history.current(oid, before), history.current(oid, earlier)
        if was is None or history.data[oid, was] != history.data[oid, undone]:
            book.blame(f'{attempt!r} has undone {undone.hex()} though {oid.hex()} was written since')
        elif old is None or history.data[oid, tid] != history.data[oid, old]:
            book.blame(f'{attempt!r} has not brought back what {oid.hex()} was before {undone.hex()}')


def _snapshot(seen: Seen, history: History, blame: Blame) -> None:
    for oid, serial in seen.serials.items():
        current = history.current(oid, seen.tid)
        if current != serial:
            blame(f'{seen.client} saw {oid.hex()} as of {serial.hex()} in its snapshot of {seen.tid.hex()}; '
                  f'that was {_hex(current)}')
            return


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


def _invalidations(life: Life, own: set[int], history: History, blame: Blame) -> None:
    """Told in order, each once, with all that was written, and before the last transaction moves on (C2)."""
    foreign = [tid for tid in history.tids if history.numbers[tid] not in own]
    known, anything = life.first, False
    for last, tid, oids in life.moves:
        if oids is None:
            anything = True
            continue
        _untold(blame, life, _between(foreign, known, last))
        known = max(known, last)
        if tid <= last:
            if tid < last:
                blame(f'{life.client}, at {last.hex()}, was told of {tid.hex()} once more')
            continue  # at `last` itself: what was written is not known, it is to be asked for
        written = {oid for one in _between(foreign, last, tid) for oid in history.wrote[one]}
        missing = sorted(written - set(oids))
        if missing and not (anything and not oids):
            blame(f'{life.client}, at {last.hex()}, was told of transactions up to {tid.hex()}, but not '
                  f'that {missing[0].hex()} has changed')
        known, anything = tid, False
    if life.last:
        _untold(blame, life, _between(foreign, known, life.last))


def _between(tids: list[bytes], after: bytes, until: bytes) -> list[bytes]:
    return tids[bisect_right(tids, after):bisect_right(tids, until)]


def _iteration(name: str, found: list[tuple[bytes, tuple[bytes, ...]]], history: History,
               blame: Blame) -> None:
    """Some transactions in a row."""
    if found:
        tids = [tid for tid, _ in found]
        at = bisect_left(history.tids, tids[0])
        expected = history.tids[at:at + len(tids)]
        if tids != expected:
            blame(f'{name} iterated over {[tid.hex() for tid in tids]}; the history has '
                  f'{[tid.hex() for tid in expected]} there')
        elif any(set(oids) != set(history.wrote[tid]) for tid, oids in found):
            blame(f'{name} iterated over transactions from {tids[0].hex()} on that were not whole')


def _untold(blame: Blame, life: Life, missing: list[bytes]) -> None:
    if missing:
        blame(f'{life.client} was not told of {missing[0].hex()} before its last transaction was later '
              f'(C2)')


def _entry(kept: Kept, entry: tuple[bytes, bytes, bytes | None, bytes], history: History,
           blame: Blame) -> None:
    """What a cache holds is true as of its last transaction."""
    oid, start, end, data = entry
    name, last = kept.client, kept.last
    if history.data.get((oid, start)) != data:
        blame(f'the cache of {name} has a record of {oid.hex()} at {start.hex()} that never was')
        return
    after = history.after(oid, start)
    if end is not None and end != after:
        blame(f'the cache of {name} says that {oid.hex()} of {start.hex()} ended at {end.hex()}; '
              f'that was {_hex(after)}')
    if end is None and after is not None and after <= last:
        blame(f'the cache of {name}, at {last.hex()}, says that {oid.hex()} of {start.hex()} is '
              f'current; it ended at {after.hex()}')
