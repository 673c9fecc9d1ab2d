"""The program that simulated clients run: a ClientStorage under ZODB's MVCCAdapter, and threads that use it.

Each thread has what a ZODB Connection has: an instance of the adapter and a cache of objects that is kept
from transaction to transaction, less what was invalidated.  So an invalidation that is missed, late or early
shows in what the thread reads next.  What it does in a transaction is drawn by the dice of the run, from
`operations`.  In some runs it has a real Connection, see `connections`.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.mvccadapter import MVCCAdapter
from ZODB.POSException import ConflictError, UndoError
from ZODB.utils import z64

from simulation.book import Attempt, Fate, Life, Moved, Seen
from simulation.operations import OPERATIONS
from simulation.records import BLOB, CLASS, COUNTER, Content, decode, encode, file_of
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

if TYPE_CHECKING:
    from simulation.dice import Dice
    from simulation.kernel import Kernel
    from simulation.service import Client
    from simulation.world import World


class Abandoned(Exception):
    """The transaction is to be aborted."""


class Instances(dict[Any, None]):
    """The instances of an adapter, in the order in which they were made; ZODB has a set."""

    add = dict.setdefault

    def remove(self, instance: Any) -> None:
        self.pop(instance)


class Adapter(MVCCAdapter):  # type: ignore[misc]
    """ZODB's, with a witness."""

    def __init__(self, storage: Any, life: Life, kernel: Kernel) -> None:
        self.life = life
        self.finished: dict[Any, bytes] = {}  # the last transaction of each instance
        self.dropped = 0  # how often anything may have changed
        self.heard: set[Any] = set()  # threads that the server has answered as their transactions began
        super().__init__(storage)
        self._instances = Instances()
        ask = storage.ping

        def ping() -> None:
            ask()
            self.heard.add(kernel.current)
        storage.ping = ping

    def invalidate(self, transaction_id: bytes, oids: Any) -> None:
        self._note(transaction_id, tuple(oids))
        super().invalidate(transaction_id, oids)

    def invalidateCache(self) -> None:
        self._note(b'', None)
        self.dropped += 1
        super().invalidateCache()

    def _invalidate_finish(self, tid: bytes, oids: Any, committing: Any) -> None:
        self.finished[committing] = tid
        super()._invalidate_finish(tid, oids, committing)

    def tpc_vote(self, transaction: Any) -> None:
        """Only instances do; a DB wants to see it."""

    def _note(self, tid: bytes, oids: tuple[bytes, ...] | None) -> None:
        self.life.moves.append(Moved(self._storage.effects.last_tid, tid, oids))


class Worker:
    """One thread of a client."""

    def __init__(self, world: World, name: str, storage: Any, adapter: Adapter, dice: Dice,
                 client: Client, instance: Any = None) -> None:
        self.world = world
        self._client = client
        self.book = world.book
        self.name = name
        self.dice = dice
        self.commits = 0
        self.storage = storage
        self.adapter = adapter
        self.instance = adapter.new_instance() if instance is None else instance
        self.cache: dict[bytes, tuple[Content, bytes]] = {}
        self._told = b''  # the last tid that lastTransaction has told this thread
        self._own = b''  # ... and the last one that it has written itself
        self.begun = b''
        self.dropped = 0  # what the adapter's `dropped` was then
        self._changed: set[bytes] = set()  # by the server, or conflicts, in the last transaction
        self._healed_at: int | None = None  # so many commits were made when nothing went wrong any more

    # ---- a transaction ----------------------------------------------------------------------------

    def run(self) -> None:
        """Until it is enough."""
        world, kernel = self.world, self.world.kernel
        while self._client.goes_on:
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
            except ClientDisconnected as error:
                self._client.heed(error)
                kernel.sleep(self.dice.between(0.01, 0.5))
            except Exception as error:
                if not world.plan.may_fail(error):
                    raise
                self._client.heed(error)
                kernel.sleep(0.01)
        self.close()

    def _transaction(self) -> None:
        self.begin()
        OPERATIONS[self.dice.choice(self.world.plan.operations)](self)

    def begin(self) -> None:
        """Be at what is current."""
        self._look_at_last()
        self.dropped = self.adapter.dropped
        latest = self._ask_what_is_latest()
        self.instance.sync(True)
        changed = self.instance.poll_invalidations()
        if changed is None:
            self.cache.clear()
        else:
            for oid in changed:
                self.cache.pop(oid, None)
        self._look_at_snapshot(latest)

    def _ask_what_is_latest(self) -> bytes:
        """What others have heard from this thread's server, before it asks that itself (``server_sync``)."""
        self.adapter.heard.discard(self.world.kernel.current)
        latest: bytes = self.book.latest.get(self._client.service, z64)
        return latest

    @property
    def is_of_two_pasts(self) -> bool:
        """Whether a backup was restored and the cache dropped since this transaction began.

        It may have read of the lost past what it reads no more (docs/cache.md, "Another past").
        """
        return self.book.restored > 0 and self.adapter.dropped != self.dropped

    def _look_at_last(self) -> None:
        last = self.storage.lastTransaction()
        if last < self._told:
            self.book.blame(f'{self.name}: lastTransaction went back from {self._told.hex()} to {last.hex()} '
                            f'(C23)')
        self._told = last

    def _look_at_snapshot(self, latest: bytes) -> None:
        start: bytes = self.instance._start
        begun = (int.from_bytes(start, 'big') - 1).to_bytes(8, 'big')
        if begun < self._own or begun < self.begun:
            self.book.blame(f'{self.name}: begins at {begun.hex()}, and has been at {self.begun.hex()} and '
                            f'written {self._own.hex()}')
        self.begun = begun
        # In a past that has ended there was more.
        if begun < latest and self.world.kernel.current in self.adapter.heard and (
                'restore_server' not in self.world.plan.faults):
            self.book.blame(f'{self.name}: begins at {begun.hex()} when the server has answered, which had '
                            f'told others of {latest.hex()} before (C2)')

    def read(self, *oids: bytes) -> list[tuple[Content, bytes]]:
        """What the snapshot has of them, and their serials."""
        found = []
        for oid in oids:
            known = self.cache.get(oid)
            if known is None:
                data, serial = self.instance.load(oid)
                known = self.cache[oid] = decode(data), serial
            found.append(known)
        self.note_seen(oids, found)
        return found

    def note_seen(self, oids: tuple[bytes, ...], found: list[tuple[Content, bytes]]) -> None:
        """They were read."""
        if self.is_of_two_pasts:
            return
        serials = {oid: serial for oid, (_, serial) in zip(oids, found, strict=True)}
        self.book.seen.append(Seen(self.name, self.begun, serials))

    def write(self, contents: dict[bytes, Content], checked: tuple[tuple[bytes, bytes], ...] = (), *,
              new: bool = False, blobs: bool = False, stop: str = '', tid: bytes | None = None,
              adds: dict[bytes, int] | None = None) -> bool:
        """Commit, as `tid` if given; whether it is committed for sure.  `stop`: abort it after that step.
        `adds`: what is added to counters."""
        attempt = self.book.new_attempt(self.name, tuple(contents))
        attempt.adds = adds or {}
        instance = self.instance
        contents = {oid: content._replace(attempt=attempt.number) for oid, content in contents.items()}

        def write(meta: Any) -> None:
            if tid is None:
                instance.tpc_begin(meta)
            else:
                self.storage.tpc_begin(meta, tid)
                instance._modified = set()
            attempt.bases = {oid: z64 if new else self.cache[oid][1] for oid in contents} | dict(checked)
            for oid, content in contents.items():
                if blobs:
                    self._store_blob(oid, attempt.bases[oid], content, meta)
                else:
                    kind = COUNTER if oid in attempt.adds else CLASS
                    data = encode(content, self.padding(), kind)
                    instance.store(oid, attempt.bases[oid], data, '', meta)
            for oid, serial in checked:
                instance.checkCurrentSerialInTransaction(oid, serial, meta)
            if stop == 'begun':
                raise Abandoned

        def finish(meta: Any) -> bytes:
            if stop == 'voted':
                self.hesitate()
                raise Abandoned
            self.book.settle(attempt, Fate.FINISHING)
            written: bytes = instance.tpc_finish(meta)
            return written

        done = self.commit(attempt, instance, write, finish)
        if done is None:
            return False
        if tid not in (None, done):
            self.book.blame(f'{self.name}: asked for {tid!r}, and got {attempt!r}')
        for oid, content in contents.items():
            self.cache[oid] = content, done
        for oid in self._changed:
            self.cache.pop(oid, None)
        return True

    def _store_blob(self, oid: bytes, serial: bytes, content: Content, meta: Any) -> None:
        runtime = self.world.kernel.current.process.runtime
        path = f'/tmp/blob-{content.attempt}'
        try:
            with runtime.open(path, 'wb') as file:
                file.write(file_of(content))
            self.instance.storeBlob(oid, serial, encode(content, kind=BLOB), path, '', meta)
        except OSError:
            with contextlib.suppress(OSError):
                runtime.remove(path)
            raise

    def hesitate(self) -> None:
        """Between the vote and its end."""
        if self.dice.chance(0.3) and not self.world.healed:
            self.world.kernel.sleep(self.dice.between(0, self.world.plan.longest_vote_s))
            self._client.service.look_at_lock()

    def commit(self, attempt: Attempt, instance: Any, write: Callable[[Any], None],
               finish: Callable[[Any], bytes]) -> bytes | None:
        """The two phases; the tid if it is committed for sure."""
        meta = TransactionMetaData(b'', str(attempt.number).encode(), {})
        try:
            try:
                write(meta)
                self._changed = set(instance.tpc_vote(meta) or ())
                tid = finish(meta)
            except BaseException as error:
                if attempt.fate is not Fate.FINISHING and not self.world.kernel.ending:
                    self.book.settle(attempt, Fate.REFUSED)
                    if isinstance(error, ConflictError):
                        self.forget(attempt)
                    instance.tpc_abort(meta)
                raise
        except (Abandoned, UndoError):
            return None
        except ClientDisconnected:
            self.book.settle(attempt, Fate.REFUSED)
            raise
        except CommitOutcomeUnknown:
            self.book.settle(attempt, Fate.UNKNOWN)
            self.forget(attempt)
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
            self._client.heed(error)
            return None
        self._committed(attempt, tid)
        return tid

    def forget(self, attempt: Attempt) -> None:
        """Read anew what it concerns."""
        for oid in attempt.oids:
            self.cache.pop(oid, None)

    def _committed(self, attempt: Attempt, tid: bytes) -> None:
        self.book.settle(attempt, Fate.ACKNOWLEDGED, tid)
        if tid <= self._own:
            self.book.blame(f'{self.name}: {attempt!r} is not later than its last, {self._own.hex()}')
        self._own = tid
        self.book.note_latest(tid, self._client.servers)
        last = self.storage.lastTransaction()
        if last < tid:
            self.book.blame(f'{self.name}: lastTransaction is {last.hex()} after {attempt!r} (C2)')
        self.commits += 1

    def padding(self) -> int:
        """So many bytes more in a record."""
        plan = self.world.plan
        return plan.large_record if self.dice.chance(0.03) else self.dice.below(plan.padding)

    def close(self) -> None:
        """No more transactions."""
        self.instance.release()
