"""The server of a run, and the programs of its clients: processes that are started again and again."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ZODB.MappingStorage
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, StorageError
from ZODB.utils import z64

from simulation.book import Life
from simulation.connections import Connected, database
from simulation.plan import OF_CACHE, RAISED, Plan
from simulation.program import Adapter, Worker
from simulation.records import BLOB, CLASS, COUNTER, MONEY, ROOT, Content, encode, encode_root, file_of
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import World as ClientWorld
from zeo_clone.configuration import packer
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.StorageServer import StorageServer

if TYPE_CHECKING:
    from simulation.machine import Machine, Process
    from simulation.world import World

PORT = 9100
DATA = '/data/Data.fs'
BLOBS = '/data/blobs'
#: Of a server in front of another one.
CACHE = '/var/relay.zec'
#: A timer may be late by so many seconds.
SLACK_S = 1.0
#: What a storage may raise in.
METHODS = ('__len__', 'getSize', 'loadBefore', 'current', 'lastTransaction', 'new_oid', 'tpc_begin', 'store',
           'tpc_vote', 'tpc_finish', 'tpc_abort', 'close', 'checkCurrentSerialInTransaction', 'getTid')
#: ... and does so only when the work is done: nobody could help it out of the transaction otherwise.
LATE = ('tpc_abort', 'close')


def fill(storage: Any, world: World) -> None:
    """The database as it is when a run begins."""
    meta = TransactionMetaData(b'', b'', {})
    oids = *world.accounts, *world.registers, *world.lists, *world.blobs, *world.counters
    attempt = world.book.new_attempt('the beginning', (ROOT, *oids))
    storage.tpc_begin(meta)
    storage.store(ROOT, z64, encode_root(attempt.number, attempt.oids[1:]), '', meta)
    for oid in oids:
        content = Content(MONEY if oid in world.accounts else 0, attempt.number)
        if oid in world.blobs:
            path = f'/tmp/first-{oid.hex()}'
            with world.kernel.current.process.runtime.open(path, 'wb') as file:
                file.write(file_of(content))
            storage.storeBlob(oid, z64, encode(content, kind=BLOB), path, '', meta)
        else:
            kind = COUNTER if oid in world.counters else CLASS
            storage.store(oid, z64, encode(content, kind=kind), '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    for _ in attempt.oids[1:]:
        storage.new_oid()


class Mapping(ZODB.MappingStorage.MappingStorage):  # type: ignore[misc]
    """Says its size without looking at each record; it is asked after each transaction."""

    def getSize(self) -> int:
        return 1000 * len(self._transactions)


def raising(name: str) -> Callable[..., Any]:
    """The method `name` of a storage, which may be the one that raises: before its work or after it."""
    def method(self: Any, *args: Any, **keywords: Any) -> Any:
        service = self.service
        raises = service.raises == name and service.world.kernel.current is not None
        if raises:
            service.raises = None
            service.world.kernel.note('raises', name)
        if raises and name not in LATE and service.machine.dice.chance(0.6):
            raise service.machine.dice.choice((StorageError, RuntimeError, KeyError))(RAISED)
        result = getattr(super(self.raising_class, self), name)(*args, **keywords)
        if raises:
            raise service.machine.dice.choice((StorageError, RuntimeError, KeyError))(RAISED)
        return result
    return method


class Witnessed(GroupCommitStorage):
    """The storage of the server, with a witness: packs remove what the verdict needs."""

    def __init__(self, service: Service, runtime: Any) -> None:
        self.service = service
        self._world = world = service.world
        self._stored: dict[bytes, bytes] = {}
        super().__init__(DATA, blob_dir=BLOBS if world.plan.blobs else None, runtime=runtime,
                         packer=packer.pack if world.plan.packer else None)
        world.witness(self)

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        super().tpc_begin(transaction, tid, status)
        self._stored = {}

    def store(self, oid: bytes, oldserial: bytes, data: bytes, version: str, transaction: Any) -> None:
        super().store(oid, oldserial, data, version, transaction)
        self._stored[oid] = data

    def tpc_finish(self, transaction: Any, f: Any = None) -> bytes:
        stored, resolved = self._stored, tuple(self._resolved)
        tid: bytes = super().tpc_finish(transaction, f)
        stored.update({oid: self.loadSerial(oid, tid) for oid in resolved})
        self._world.witnessed[tid] = stored
        self._world.numbers[tid] = int(transaction.description or 0)
        return tid

    def pack(self, *args: Any, **keywords: Any) -> None:
        # After a sync that failed none begins: what a server that was killed has left stays for the next one.
        begins = self._sync_failure is None
        try:
            super().pack(*args, **keywords)
        finally:
            if begins and not self._world.kernel.ending:
                self.service.look_for_remains()


class RaisingFile(Witnessed):
    """... whose methods may raise."""


class RaisingMapping(Mapping):
    """... whose methods may raise."""

    def __init__(self, service: Service) -> None:
        self.service = service
        super().__init__()


for one in RaisingFile, RaisingMapping:
    one.raising_class = one
    for verb in METHODS:
        if hasattr(one, verb) and (one, verb) != (RaisingFile, 'loadBefore'):  # else it had no quick reads
            setattr(one, verb, raising(verb))


class Service:
    """A server process."""

    def __init__(self, world: World, machine: Machine) -> None:
        self.world = world
        self.machine = machine
        self.process: Process | None = None
        self.server: Any = None
        self.starts = 0
        self.raises: str | None = None  # the method of its storage that raises the next time
        self.backup: bytes | None = None  # what was copied of its file
        self.restoring = False  # that is put back when it starts
        self._past: list[Any] | None = None  # what the restored backup has ended
        self._mapping: Any = None

    @property
    def running(self) -> bool:
        """Does it serve?"""
        return self.server is not None and self.process is not None and not self.process.dead

    def start(self) -> None:
        """Begin to serve, unless it does."""
        if not self.machine.up or self.process is not None and not self.process.dead:
            return
        self.starts += 1
        self.server = None
        self._look_after_disk()
        process = self.process = self.machine.start(f'server-{self.starts}')
        process.spawn(self._main, 'main')

    def _look_after_disk(self) -> None:
        """After a failed sync, as the log wants it: the machine is booted anew before the server starts."""
        with contextlib.suppress(FileNotFoundError):
            if self.machine.disk.find(DATA).forgotten:
                self.machine.lose_power()
                self.machine.boot()

    def _open(self) -> Any:
        if self.world.plan.storage == 'mapping':
            if self._mapping is None:
                self._mapping = RaisingMapping(self)
                fill(self._mapping, self.world)
            return self._mapping
        assert self.process is not None
        if self.restoring:
            self._restore(self.process.runtime)
        storage = RaisingFile(self, self.process.runtime)
        if not len(storage):
            fill(storage, self.world)
        return storage

    def back_up(self) -> None:
        """Copy the file as it is: at its end there may be a transaction that is not finished."""
        with contextlib.suppress(FileNotFoundError):
            self.backup = bytes(self.machine.disk.find(DATA).data)

    def _restore(self, runtime: Any) -> None:
        """Put the copy back, as an operator does.  What was since is kept for the verdict."""
        if self._past is None:  # else the copy is not whole yet: power, or room, was not enough
            storage = RaisingFile(self, runtime)
            self._past = sorted(self.world.transactions_of(storage).items())
            storage.close()
        with runtime.open(DATA, 'wb') as file:
            file.write(self.backup)
            file.flush()
            runtime.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            runtime.remove(f'{DATA}.index')
        self.restoring = False
        self.world.lost_pasts.append(self._past)
        self.world.book.restored += 1
        self.world.kernel.note('restored')

    def _go_back(self) -> None:
        """As an operator does whose pack was cut short."""
        disk = self.machine.disk
        disk.rename(f'{DATA}.old', DATA)
        with contextlib.suppress(FileNotFoundError):
            disk.remove(f'{DATA}.index')
        self.world.kernel.note('goes back')

    def _main(self) -> None:
        process, plan = self.process, self.world.plan
        assert process is not None
        storage = None
        try:
            storage = self._open()
            server = StorageServer(
                (self.machine.address, PORT), {'1': storage}, runtime=process.runtime,
                invalidation_queue_size=plan.history_size, transaction_timeout=plan.transaction_timeout_s,
                heartbeat_s=plan.heartbeat_s, resolve=['simulation.records.Counter'],
                client_conflict_resolution=plan.resolved_by_clients)
        except Exception as error:
            if 'cut short' in str(error):
                self._go_back()
            elif not isinstance(error, OSError) and not plan.may_fail(error):
                raise
            if storage is not None:
                with contextlib.suppress(Exception):
                    storage.close()
            process.end()  # somebody starts it again
            return
        self.server = server
        server.loop()
        self._look_at(storage)
        server.close()
        self._look_for_leaks(process)
        process.end()

    def _look_at(self, storage: Any) -> None:
        """Before it is closed."""

    def look_at_lock(self) -> None:
        """Has anybody held it for too long (L10)?  A server that was paused may not know yet."""
        plan = self.world.plan
        if self.running and self is self.world.service and 'pause_server' not in plan.faults:
            now = self.world.kernel.now * self.machine.rate  # as the server counts
            for _, since in self.server.served['1'].lock._watched.values():
                if now - since > plan.transaction_timeout_s + SLACK_S:
                    self.world.book.blame(f'a client has held the commit lock for {now - since:.1f} s (L10)')

    @property
    def packer(self) -> Process | None:
        """The process that packs, if there is one."""
        children = [one for one in self.machine.processes if one.is_child_of is not None and not one.dead]
        return children[-1] if children else None

    def look_for_remains(self) -> None:
        """Of a pack that has ended, or that could not be made: nothing may be left (L12)."""
        directory, name = DATA.rsplit('/', 1)
        left = [one for one in self.machine.disk.find(directory).names if one.startswith(f'{name}.pack')]
        left += [one.name for one in self.machine.processes
                 if one.is_child_of is self.process and not one.dead]
        if left:
            self.world.book.blame(f'a pack has left {left} (L12)')

    def _look_for_leaks(self, process: Process) -> None:
        self.world.look_for_leaks(process, 'a server that was closed')

    def stop(self) -> None:
        """As by SIGTERM."""
        if self.running:
            self.server.stop()

    def kill(self) -> None:
        """As by SIGKILL."""
        if self.process is not None and not self.process.dead:
            self.process.kill()
            self.server = None

    def call(self, function: Callable[[], Any], limit_s: float = 60.0) -> Any:
        """Of the hub: the result of `function`, called in a thread of the server's process."""
        assert self.process is not None
        done: list[Any] = []
        self.process.spawn(lambda: done.append(function()), 'question')
        self.world.kernel.run(lambda: bool(done), limit_s)
        return done[0] if done else None


def blob_cache(plan: Plan, name: str) -> dict[str, Any]:
    """What a client is told of blobs."""
    if not plan.blobs:
        return {}
    if plan.shared_blobs:
        return {'blob_dir': BLOBS, 'shared_blob_dir': True}
    return {'blob_dir': f'/var/{name}-blobs', 'blob_cache_size': plan.blob_cache_size}


class Relay(Service):
    """A server in front of the server: its storage is a client (fan-out)."""

    name = 'relay'
    storage: Any = None

    def _open(self) -> Any:
        plan, process = self.world.plan, self.process
        assert process is not None
        self.storage = ClientStorage(
            (self.world.service.machine.name, PORT), world=ClientWorld(process.runtime), wait=False,
            wait_timeout=plan.wait_timeout_s, cache=CACHE if plan.relay_cache else None,
            cache_size=plan.cache_size, client_label='relay', heartbeat=plan.heartbeat_s,
            **blob_cache(plan, 'relay'))
        return self.storage

    def _look_at(self, storage: Any) -> None:
        self.world.look_at_cache(self)

    def renew(self) -> None:
        """Start it anew without its cache, as after a backup was restored."""
        self.kill()
        with contextlib.suppress(FileNotFoundError):
            self.machine.disk.remove(CACHE)
        self.start()


class Client:
    """A client process, and the next one if that was killed."""

    def __init__(self, world: World, machine: Machine, name: str) -> None:
        self.world = world
        self.machine = machine
        self.name = name
        relay = world.relay
        self.service: Service = world.service if relay is None or machine.dice.chance(0.4) else relay
        #: It, and the server above it.
        self.servers = tuple(dict.fromkeys((self.service, world.service)))
        self.process: Process | None = None
        self.storage: Any = None
        self.own: ClientWorld | None = None
        self.workers: list[Worker] = []
        self.starts = 0
        self.commits = 0  # of all workers there have been
        self.stopping = False  # it is to end, and somebody starts it again
        self.forgets = False  # then its cache file is removed
        self.resting = False  # its workers have ended, its storage is open
        self.done = False

    def start(self) -> None:
        """Begin, unless it is there."""
        if not self.machine.up or self.done or self.process is not None and not self.process.dead:
            return
        self.starts += 1
        self.storage, self.workers, self.resting, self.stopping = None, [], False, False
        if self.forgets:
            self.forgets = False
            with contextlib.suppress(FileNotFoundError):
                self.machine.disk.remove(f'/var/{self.name}.zec')
        process = self.process = self.machine.start(f'{self.name}-{self.starts}')
        process.spawn(self._main, 'main')

    def kill(self) -> None:
        """As by SIGKILL."""
        if self.process is not None and not self.process.dead:
            self.process.kill()

    def renew(self) -> None:
        """Start it anew."""
        self.kill()
        self.start()

    def heed(self, error: Exception) -> None:
        """Do what an error of its cache asks for: start it anew, without the file."""
        if OF_CACHE in str(error) and not self.stopping:
            self.stop()
            self.forgets = True
            self.world.kernel.call_later(1.0, self._start_later)

    def _start_later(self) -> None:
        if self.process is not None and not self.process.dead and self.stopping:
            self.world.kernel.call_later(1.0, self._start_later)
        self.start()

    def fork(self, done: Callable[[Process], object]) -> None:
        """By Python: its hooks are called in the parent, where all goes on (N10)."""
        own, process = self.own, self.process
        if own is None or process is None or process.dead:
            return

        def fork() -> None:
            own.before_fork()
            done(process.fork())
            own.after_fork_in_parent()
        process.spawn(fork, 'forks')

    def stop(self) -> None:
        """Let it end as programs do, its storage closed."""
        self.stopping = True

    @property
    def goes_on(self) -> bool:
        """Do its workers work?"""
        return self.world.working and not self.stopping

    def _main(self) -> None:
        world, plan = self.world, self.world.plan
        process, kernel = self.process, self.world.kernel
        assert process is not None
        storage = None
        own = self.own = ClientWorld(process.runtime)
        while storage is None:
            try:
                storage = ClientStorage(
                    (self.service.machine.name, PORT), world=own, wait_timeout=plan.wait_timeout_s,
                    cache=f'/var/{self.name}.zec' if plan.persistent else None, cache_size=plan.cache_size,
                    client_label=self.name, io_thread=plan.io_thread, server_sync=plan.server_sync,
                    heartbeat=plan.heartbeat_s, wait=process.machine.dice.chance(0.7),
                    **blob_cache(plan, self.name))
            except Exception as error:  # noqa: PERF203 - it tries again
                if not isinstance(error, (ClientDisconnected, OSError)) and not plan.may_fail(error):
                    raise
                self.heed(error)
                if not self.goes_on:
                    self._end(own)
                    return
                if not isinstance(error, ClientDisconnected):
                    kernel.sleep(0.1)
        self.storage = storage
        life = Life(process.name)
        adapter = Adapter(storage, life, kernel)
        life.first = storage.lastTransaction()
        world.book.lives.append(life)
        self._begin_to_work(process, storage, adapter)
        for task in [process.spawn(worker.run, f'worker {number}')
                     for number, worker in enumerate(self.workers)]:
            task.join()
        self.resting = not self.stopping
        while not world.closing and not self.stopping:
            if plan.io_thread:
                kernel.sleep(0.1)
            else:
                own.application.poll(0.1)  # as its main loop should: nobody else looks for a server
        life.last = storage.lastTransaction()
        world.look_at_cache(self)
        before = kernel.now - process.stood_s
        storage.close()
        took_s = kernel.now - process.stood_s - before
        if took_s > 1.5:
            world.book.blame(f'{self.name}: close() took {took_s:.1f} s (N12)')
        self._end(own)

    def _begin_to_work(self, process: Process, storage: Any, adapter: Adapter) -> None:
        """As many workers as are wanted; with connections that takes a server."""
        world, plan = self.world, self.world.plan
        db = None
        while plan.connections and db is None and self.goes_on:
            try:
                db = database(adapter, plan.connections)
            except Exception as error:  # noqa: PERF203 - it tries again
                if not isinstance(error, (ClientDisconnected, ConflictError)) and not plan.may_fail(error):
                    raise
                self.heed(error)
                world.kernel.sleep(0.1)
        for number in range(plan.threads if db is not None or not plan.connections else 0):
            name = f'{process.name}/{number}'
            rest = process.machine.dice.fork(name), self
            self.workers.append(Worker(world, name, storage, adapter, *rest) if db is None
                                else Connected(world, name, storage, db, *rest))

    def _end(self, own: ClientWorld) -> None:
        assert self.process is not None
        self.done = not self.stopping
        own.close()
        self.world.look_for_leaks(self.process, 'a client whose storage was closed')
        self.process.end()
