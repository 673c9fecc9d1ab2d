"""The program that simulated clients run: a ClientStorage under ZODB's MVCCAdapter, and threads that use it.

Each thread has what a ZODB Connection has: an instance of the adapter and a cache of objects that is kept
from transaction to transaction, less what was invalidated.  So an invalidation that is missed, late or early
shows in what the thread reads next.  Its operations are drawn by the dice of the run: transfers between
accounts, audits of all of them, registers, append-only lists, checks of what was read, transactions that end
half-way.
"""
from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from persistent.TimeStamp import TimeStamp
from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.mvccadapter import MVCCAdapter
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError, StorageError, UndoError
from ZODB.utils import z64

from simulation.book import Attempt, Fate, Life, Moved, Seen
from simulation.records import Content, decode, encode
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown, ServerException, UnrecognizedResult

if TYPE_CHECKING:
    from simulation.dice import Dice
    from simulation.world import World

#: What each account has at the beginning.
MONEY = 100
#: What ZODB says when a commit is given up while an iterator begins, which it does at the end of the file.
CUT_SHORT = 'unpack requires a buffer', "no attribute '_scan_foreward'"
#: An append-only list begins anew at this length.
LONGEST = 60


class Instances(dict[Any, None]):
    """The instances of an adapter, in the order in which they were made; ZODB has a set."""

    add = dict.setdefault

    def remove(self, instance: Any) -> None:
        self.pop(instance)


class Adapter(MVCCAdapter):  # type: ignore[misc]
    """ZODB's, with a witness."""

    def __init__(self, storage: Any, life: Life) -> None:
        self.life = life
        super().__init__(storage)
        self._instances = Instances()

    def invalidate(self, transaction_id: bytes, oids: Any) -> None:
        self._note(transaction_id, tuple(oids))
        super().invalidate(transaction_id, oids)

    def invalidateCache(self) -> None:
        self._note(b'', None)
        super().invalidateCache()

    def _note(self, tid: bytes, oids: tuple[bytes, ...] | None) -> None:
        self.life.moves.append(Moved(self._storage.effects.last_tid, tid, oids))


class Worker:
    """One thread of a client."""

    def __init__(self, world: World, name: str, storage: Any, adapter: Adapter, dice: Dice,
                 is_direct: bool) -> None:
        self.world = world
        self.is_direct = is_direct  # at the server, not at one in front of it
        self.book = world.book
        self.name = name
        self.dice = dice
        self.commits = 0
        self._storage = storage
        self._adapter = adapter
        self._instance = adapter.new_instance()
        self._cache: dict[bytes, tuple[Content, bytes]] = {}
        self._told = b''  # the last tid that lastTransaction has told this thread
        self._own = b''  # ... and the last one that it has written itself
        self._begun = b''
        self._attempt: Attempt | None = None
        self._healed_at: int | None = None  # so many commits were made when nothing went wrong any more

    # ---- a transaction ----------------------------------------------------------------------------

    def run(self) -> None:
        """Until the world says that it is enough."""
        world, kernel = self.world, self.world.kernel
        while world.working:
            if world.plan.think_s:
                kernel.sleep(world.plan.think_s * self.dice.random() * 2)
            if world.healed:
                if self._healed_at is None:
                    self._healed_at = self.commits
                if self.commits > self._healed_at:
                    kernel.sleep(self.dice.between(0.5, 3.0))  # over slow networks others would never win
            try:
                self._transaction()
            except ConflictError:
                self.book.conflicts += 1
            except ClientDisconnected:
                kernel.sleep(self.dice.between(0.01, 0.5))
            except Exception as error:
                if not world.plan.may_fail(error):
                    raise
        self._instance.release()

    def _transaction(self) -> None:
        self._begin()
        kind = self.dice.choice(self.world.plan.operations)
        getattr(self, f'_{kind}')()

    def _begin(self) -> None:
        last = self._storage.lastTransaction()
        if last < self._told:
            self.book.blame(f'{self.name}: lastTransaction went back from {self._told.hex()} to {last.hex()} '
                            f'(C23)')
        self._told = last
        self._instance.sync(True)
        changed = self._instance.poll_invalidations()
        if changed is None:
            self._cache.clear()
        else:
            for oid in changed:
                self._cache.pop(oid, None)
        start: bytes = self._instance._start
        begun = (int.from_bytes(start, 'big') - 1).to_bytes(8, 'big')
        if begun < self._own or begun < self._begun:
            self.book.blame(f'{self.name}: begins at {begun.hex()}, and has been at {self._begun.hex()} and '
                            f'written {self._own.hex()}')
        self._begun = begun

    def _read(self, *oids: bytes) -> list[tuple[Content, bytes]]:
        found = []
        for oid in oids:
            known = self._cache.get(oid)
            if known is None:
                data, serial = self._instance.load(oid)
                known = self._cache[oid] = decode(data), serial
            found.append(known)
        serials = {oid: serial for oid, (_, serial) in zip(oids, found, strict=True)}
        self.book.seen.append(Seen(self.name, self._begun, serials))
        return found

    def _write(self, contents: dict[bytes, Content], checked: tuple[tuple[bytes, bytes], ...] = (),
               new: bool = False, stop: str = '', tid: bytes | None = None) -> bool:
        """Commit, as `tid` if given; whether it is committed for sure.  `stop`: abort it after that step."""
        attempt = self._attempt = self.book.new_attempt(self.name, tuple(contents))
        instance = self._instance
        contents = {oid: content._replace(attempt=attempt.number) for oid, content in contents.items()}

        def write(meta: Any) -> None:
            if tid is None:
                instance.tpc_begin(meta)
            else:
                self._storage.tpc_begin(meta, tid)
                instance._modified = set()
            attempt.bases = {oid: z64 if new else self._cache[oid][1] for oid in contents} | dict(checked)
            for oid, content in contents.items():
                instance.store(oid, attempt.bases[oid], encode(content, self._padding()), '', meta)
            for oid, serial in checked:
                instance.checkCurrentSerialInTransaction(oid, serial, meta)
            if stop == 'begun':
                raise Abandoned

        def finish(meta: Any) -> bytes:
            if stop == 'voted':
                if self.dice.chance(0.3) and not self.world.healed:
                    self.world.kernel.sleep(self.dice.between(0, self.world.plan.longest_vote_s))
                raise Abandoned
            self.book.settle(attempt, Fate.FINISHING)
            written: bytes = instance.tpc_finish(meta)
            return written

        done = self._commit(attempt, instance, write, finish)
        if done is None:
            return False
        if tid not in (None, done):
            self.book.blame(f'{self.name}: asked for {tid!r}, and got {attempt!r}')
        for oid, content in contents.items():
            self._cache[oid] = content, done
        return True

    def _commit(self, attempt: Attempt, instance: Any, write: Callable[[Any], None],
                finish: Callable[[Any], bytes]) -> bytes | None:
        """The two phases; the tid if it is committed for sure."""
        meta = TransactionMetaData(b'', str(attempt.number).encode(), {})
        try:
            try:
                write(meta)
                instance.tpc_vote(meta)
                tid = finish(meta)
            except BaseException as error:
                if attempt.fate is not Fate.FINISHING and not self.world.kernel.ending:
                    self.book.settle(attempt, Fate.REFUSED)
                    if isinstance(error, ConflictError):
                        self._forget(attempt)
                    instance.tpc_abort(meta)
                raise
        except (Abandoned, UndoError):
            return None
        except ClientDisconnected:
            self.book.settle(attempt, Fate.REFUSED)
            raise
        except CommitOutcomeUnknown:
            self.book.settle(attempt, Fate.UNKNOWN)
            self._forget(attempt)
            return None
        except (ConflictError, TransientError):
            self.book.settle(attempt, Fate.REFUSED)
            raise
        except Exception as error:
            if attempt.fate is Fate.FINISHING:
                self.book.blame(f'{self.name}: tpc_finish raised {error!r} (C24)')
                self.book.settle(attempt, Fate.UNKNOWN)
            elif not self.world.plan.may_fail(error):
                self.book.blame(f'{self.name}: a commit raised {error!r}')
            return None
        self._committed(attempt, tid)
        return tid

    def _forget(self, attempt: Attempt) -> None:
        for oid in attempt.oids:
            self._cache.pop(oid, None)

    def _committed(self, attempt: Attempt, tid: bytes) -> None:
        self.book.settle(attempt, Fate.ACKNOWLEDGED, tid)
        if tid <= self._own:
            self.book.blame(f'{self.name}: {attempt!r} is not later than its last, {self._own.hex()}')
        self._own = tid
        last = self._storage.lastTransaction()
        if last < tid:
            self.book.blame(f'{self.name}: lastTransaction is {last.hex()} after {attempt!r} (C2)')
        self.commits += 1

    def _padding(self) -> int:
        plan = self.world.plan
        return plan.large_record if self.dice.chance(0.03) else self.dice.below(plan.padding)

    # ---- what it does -----------------------------------------------------------------------------

    def _transfer(self, stop: str = '') -> None:
        one, other = self.dice.sample(self.world.accounts, 2)
        (mine, _), (theirs, _) = self._read(one, other)
        amount = self.dice.below(10)
        self._write({one: Content(mine.value - amount, 0), other: Content(theirs.value + amount, 0)},
                    stop=stop)

    def _audit(self) -> None:
        found = self._read(*self.world.accounts)
        total = sum(content.value for content, _ in found)
        if total != MONEY * len(self.world.accounts):
            self.book.blame(f'{self.name}: the bank has {total} at {self._begun.hex()}: '
                            f'{[(content.value, serial.hex()) for content, serial in found]}')

    def _register(self) -> None:
        oid = self.dice.choice(self.world.registers)
        (before, _), = self._read(oid)
        self._write({oid: Content(before.value + 1, 0)})

    def _look(self) -> None:
        self._read(*self.dice.sample(self.world.registers, 1 + self.dice.below(len(self.world.registers))))

    def _append(self) -> None:
        oid = self.dice.choice(self.world.lists)
        (before, _), = self._read(oid)
        number = len(self.book.attempts)
        listed = before.listed if len(before.listed) < LONGEST else ()
        self._write({oid: Content(before.value + 1, 0, (*listed, number))})

    def _check(self) -> None:
        """Write one and rely on another, which is not written."""
        one, other = self.dice.sample(self.world.registers, 2)
        (mine, _), (_, serial) = self._read(one, other)
        self._write({one: Content(mine.value + 1, 0)}, checked=((other, serial),))

    def _abandon(self) -> None:
        self._transfer(stop=self.dice.choice(('begun', 'voted')))

    def _create(self) -> None:
        world = self.world
        before = self._server()
        oid = self._storage.new_oid()
        # A server that was started anew does not know of those that nobody has used; should two use the same
        # one, the second has a conflict.
        if before and before == self._server() and world.relay is None:
            if world.handed_out.get(oid) == before:
                self.book.blame(f'{self.name}: new_oid gave {oid.hex()} twice (C13)')
            world.handed_out[oid] = before
        self._write({oid: Content(1, 0)}, new=True)

    def _server(self) -> str:
        """What tells the server of this moment from those before and after it; empty without one."""
        link = self._storage._engine.places.ready
        return '' if link is None else link.info['instance']

    def _old(self) -> None:
        """What was current at an earlier moment?"""
        if not self.book.seen:
            return
        seen = self.book.seen[self.dice.below(len(self.book.seen))]
        oid = self.dice.choice(list(seen.serials))
        later = (int.from_bytes(seen.tid, 'big') + 1).to_bytes(8, 'big')
        if seen.tid > self._begun or not self.is_direct:
            return  # this client need not know of it yet, or not exactly
        try:
            found = self._storage.loadBefore(oid, later)
        except POSKeyError:
            found = None
        if found is None and self.world.plan.packs:
            return
        if found is None:
            self.book.blame(f'{self.name}: {oid.hex()} was not there before {later.hex()}')
        else:
            self.book.seen.append(Seen(self.name, seen.tid, {oid: found[1]}))

    def _iterate(self) -> None:
        """Some transactions, from one that somebody has seen."""
        seen = self.book.seen[-1 - self.dice.below(min(30, len(self.book.seen)))] if self.book.seen else None
        if seen is None or seen.tid > self._begun or self.world.plan.packs:
            return
        found: list[tuple[bytes, tuple[bytes, ...]]] = []
        self.book.iterated.append((self.name, found))
        try:
            for transaction in self._storage.iterator(seen.tid):
                found.append((transaction.tid, tuple(record.oid for record in transaction)))
                if len(found) >= 10:
                    break
        except (ValueError, ServerException) as error:
            if not any(one in str(error) for one in CUT_SHORT):
                raise

    def _pack(self) -> None:
        if self.dice.chance(0.9):
            return
        now = self.world.service.machine.wall_clock() - self.dice.random()
        self.world.packed_until = max(self.world.packed_until, tid_of(now + 1.0))
        try:
            self._storage.pack(now)
        except (StorageError, UnrecognizedResult) as error:
            if 'pack' not in str(error):
                raise
        except OSError:
            if 'sync_error' not in self.world.plan.faults:
                raise

    def _choose(self) -> None:
        """A transaction whose tid the client chooses, as those who copy databases do."""
        oid = self.dice.choice(self.world.registers)
        (before, _), = self._read(oid)
        last = int.from_bytes(self._storage.lastTransaction(), 'big')
        self._write({oid: Content(before.value + 1, 0)},
                    tid=(last + 1 + self.dice.below(1 << 24)).to_bytes(8, 'big'))

    def _undo(self) -> None:
        """Undo one of the last transactions that changed something other than a list."""
        attempts = self.book.attempts
        undone = attempts[-1 - self.dice.below(min(20, len(attempts)))]
        if undone.tid is None or set(undone.oids) & set(self.world.lists) or z64 in undone.bases.values():
            return
        attempt = self._attempt = self.book.new_attempt(self.name, undone.oids)
        attempt.undoes = undone.tid
        instance = self._adapter.undo_instance()
        tids: list[bytes] = []

        def write(meta: Any) -> None:
            instance.tpc_begin(meta)
            instance.undo(base64.b64encode(undone.tid or b''), meta)

        def finish(meta: Any) -> bytes:
            self.book.settle(attempt, Fate.FINISHING)
            instance.tpc_finish(meta, tids.append)
            return tids[0]

        if self._commit(attempt, instance, write, finish) is not None:
            self._forget(attempt)

    def _ask(self) -> None:
        self._storage.ping()


def tid_of(seconds: float) -> bytes:
    """The tid of a transaction at that time."""
    tid: bytes = TimeStamp(*time.gmtime(seconds)[:5], seconds % 60).raw()
    return tid


class Abandoned(Exception):
    """The transaction is to be aborted."""


def names() -> Iterator[str]:
    """Of all operations."""
    yield from ('transfer', 'audit', 'register', 'look', 'append', 'check', 'abandon', 'create', 'old', 'ask',
                'iterate')


__all__ = ['Adapter', 'ReadConflictError', 'Worker', 'names']
