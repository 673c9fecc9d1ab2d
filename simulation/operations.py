"""What a worker does in a transaction, by name: transfers between accounts and audits of all of them,
registers, counters, append-only lists, checks of what was only read, blobs, undo, packs, iteration, and
transactions that end half-way.

In: a `Worker` that is at the beginning of a transaction.  Out: what it has read and written, in its book.
"""
from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from persistent.TimeStamp import TimeStamp
from ZODB.POSException import POSKeyError, StorageError
from ZODB.utils import z64

from simulation.book import Fate, Seen
from simulation.records import MONEY, Content, file_of
from zeo_clone.Exceptions import ServerException, UnrecognizedResult

if TYPE_CHECKING:
    from simulation.program import Worker

#: What ZODB says when a commit is given up while an iterator begins, which it does at the end of the file.
CUT_SHORT = 'unpack requires a buffer', "no attribute '_scan_foreward'"
#: An append-only list begins anew at this length.
LONGEST = 60


def transfer(worker: Worker, stop: str = '') -> None:
    """From one account to another one; `stop`: do not finish."""
    one, other = worker.dice.sample(worker.world.accounts, 2)
    (mine, _), (theirs, _) = worker.read(one, other)
    amount = worker.dice.below(10)
    worker.write({one: Content(mine.value - amount, 0), other: Content(theirs.value + amount, 0)},
                 stop=stop)


def audit(worker: Worker) -> None:
    """Is the bank's total what it was?"""
    found = worker.read(*worker.world.accounts)
    total = sum(content.value for content, _ in found)
    if total != MONEY * len(worker.world.accounts) and not worker.is_of_two_pasts:
        worker.book.blame(f'{worker.name}: the bank has {total} at {worker.begun.hex()}: '
                          f'{[(content.value, serial.hex()) for content, serial in found]}')


def register(worker: Worker) -> None:
    """One more."""
    oid = worker.dice.choice(worker.world.registers)
    (before, _), = worker.read(oid)
    worker.write({oid: Content(before.value + 1, 0)})


def count(worker: Worker) -> None:
    """Count on, whoever else does; now and then with a register, for which somebody else is in the way."""
    world, dice = worker.world, worker.dice
    some = dice.sample(world.counters, 1 + dice.below(len(world.counters)))
    if dice.chance(0.2):
        some.append(dice.choice(world.registers))
    amounts = {oid: 1 + dice.below(9) for oid in some}
    found = worker.read(*some)
    worker.write({oid: Content(before.value + amounts[oid], 0)
                  for oid, (before, _) in zip(some, found, strict=True)},
                 adds={oid: amounts[oid] for oid in some if oid in world.counters})


def look(worker: Worker) -> None:
    """Read some registers."""
    registers = worker.world.registers
    worker.read(*worker.dice.sample(registers, 1 + worker.dice.below(len(registers))))


def append(worker: Worker) -> None:
    """Append to a list."""
    oid = worker.dice.choice(worker.world.lists)
    (before, _), = worker.read(oid)
    number = len(worker.book.attempts)
    listed = before.listed if len(before.listed) < LONGEST else ()
    worker.write({oid: Content(before.value + 1, 0, (*listed, number))})


def check(worker: Worker) -> None:
    """Write one and rely on another, which is not written."""
    one, other = worker.dice.sample(worker.world.registers, 2)
    (mine, _), (_, serial) = worker.read(one, other)
    worker.write({one: Content(mine.value + 1, 0)}, checked=((other, serial),))


def abandon(worker: Worker) -> None:
    """Give a transaction up."""
    transfer(worker, stop=worker.dice.choice(('begun', 'voted')))


def create(worker: Worker) -> None:
    """A new object."""
    world = worker.world
    before = server(worker)
    oid = worker.storage.new_oid()
    # A server that was started anew does not know of those that nobody has used; should two use the same
    # one, the second has a conflict.
    if before and before == server(worker) and world.relay is None:
        if world.handed_out.get(oid) == before:
            worker.book.blame(f'{worker.name}: new_oid gave {oid.hex()} twice (C13)')
        world.handed_out[oid] = before
    worker.write({oid: Content(1, 0)}, new=True)


def server(worker: Worker) -> str:
    """What tells the server of this moment from those before and after it; empty without one."""
    link = worker.storage._engine.places.ready
    return '' if link is None else link.info['instance']


def old(worker: Worker) -> None:
    """What was current at an earlier moment?"""
    if not worker.book.seen:
        return
    seen = worker.book.seen[worker.dice.below(len(worker.book.seen))]
    oid = worker.dice.choice(list(seen.serials))
    later = (int.from_bytes(seen.tid, 'big') + 1).to_bytes(8, 'big')
    if seen.tid > worker.begun:
        return  # this client need not know of it yet
    try:
        found = worker.storage.loadBefore(oid, later)
    except POSKeyError:
        found = None
    if found is None and (worker.world.plan.packs or worker.world.lost_pasts):
        return
    if found is None:
        worker.book.blame(f'{worker.name}: {oid.hex()} was not there before {later.hex()}')
    else:
        worker.book.seen.append(Seen(worker.name, seen.tid, {oid: found[1]}))


def iterate(worker: Worker) -> None:
    """Some transactions, from one that somebody has seen."""
    snapshots = worker.book.seen
    if not snapshots:
        return
    seen = snapshots[-1 - worker.dice.below(min(30, len(snapshots)))]
    if seen.tid > worker.begun or worker.world.plan.packs:
        return
    found: list[tuple[bytes, tuple[bytes, ...]]] = []
    worker.book.iterated.append((worker.name, found))
    try:
        for transaction in worker.storage.iterator(seen.tid):
            found.append((transaction.tid, tuple(record.oid for record in transaction)))
            if len(found) >= 10:
                break
    except (ValueError, ServerException) as error:
        if not any(one in str(error) for one in CUT_SHORT):
            raise


def pack(worker: Worker) -> None:
    """Once in a while."""
    if worker.dice.chance(0.9):
        return
    now = worker.world.service.machine.wall_clock() - worker.dice.random()
    worker.world.packed_until = max(worker.world.packed_until, tid_of(now + 1.0))
    try:
        worker.storage.pack(now)
    except (StorageError, UnrecognizedResult) as error:
        if 'pack' not in str(error):
            raise
    except OSError:
        if not {'sync_error', 'packer_error'} & {*worker.world.plan.faults}:
            raise


def choose(worker: Worker) -> None:
    """A transaction whose tid the client chooses, as those who copy databases do."""
    oid = worker.dice.choice(worker.world.registers)
    (before, _), = worker.read(oid)
    last = int.from_bytes(worker.storage.lastTransaction(), 'big')
    worker.write({oid: Content(before.value + 1, 0)},
                tid=(last + 1 + worker.dice.below(1 << 24)).to_bytes(8, 'big'))


def undo(worker: Worker) -> None:
    """Undo one of the last transactions that changed something other than a list."""
    attempts = worker.book.attempts
    undone = attempts[-1 - worker.dice.below(min(20, len(attempts)))]
    if undone.tid is None or set(undone.oids) & set(worker.world.lists) or z64 in undone.bases.values():
        return
    attempt = worker.book.new_attempt(worker.name, undone.oids)
    attempt.undoes = undone.tid
    attempt.adds = {oid: -amount for oid, amount in undone.adds.items()}
    instance = worker.adapter.undo_instance()
    tids: list[bytes] = []

    def write(meta: Any) -> None:
        instance.tpc_begin(meta)
        instance.undo(base64.b64encode(undone.tid or b''), meta)

    def finish(meta: Any) -> bytes:
        worker.book.settle(attempt, Fate.FINISHING)
        instance.tpc_finish(meta, tids.append)
        return tids[0]

    if worker.commit(attempt, instance, write, finish) is not None:
        worker.forget(attempt)


def ask(worker: Worker) -> None:
    """Is the server there?"""
    worker.storage.ping()



def write_blob(worker: Worker) -> None:
    """Another file of one of the blobs."""
    oid = worker.dice.choice(worker.world.blobs)
    worker.read(oid)
    plan = worker.world.plan
    size = worker.dice.below(plan.large_blob if worker.dice.chance(0.2) else 200)
    worker.write({oid: Content(size, 0)}, blobs=True)


def read_blob(worker: Worker) -> None:
    """Is there in the file what belongs into it?"""
    oid = worker.dice.choice(worker.world.blobs)
    (content, serial), = worker.read(oid)
    try:
        with worker.storage.openCommittedBlobFile(oid, serial) as file:
            data = file.read()
    except POSKeyError:
        if not worker.world.plan.packs:
            raise
        return  # an old revision, which a pack has removed
    if data != file_of(content):
        worker.book.blame(f'{worker.name}: the blob {oid.hex()} of {serial.hex()} has {len(data)} bytes, '
                          f'{data[:20]!r}...; it was written with {content.value} by {content.attempt} (B11)')


def tid_of(seconds: float) -> bytes:
    """The tid of a transaction at that time."""
    tid: bytes = TimeStamp(*time.gmtime(seconds)[:5], seconds % 60).raw()
    return tid


OPERATIONS: dict[str, Callable[[Worker], None]] = {
    function.__name__: function
    for function in (transfer, audit, register, look, append, check, abandon, create, old, ask, iterate, pack,
                     choose, undo, write_blob, read_blob, count)}
#: What is not in each run.
SPECIAL = 'pack', 'choose', 'undo', 'write_blob', 'read_blob', 'count'
