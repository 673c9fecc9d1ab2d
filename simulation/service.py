"""The server of a run, and the programs of its clients: processes that are started again and again."""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ZODB.MappingStorage
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import StorageError
from ZODB.utils import z64

from simulation.book import Life
from simulation.plan import RAISED
from simulation.program import MONEY, Adapter, Worker
from simulation.records import ROOT, Content, encode, encode_root
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import World as ClientWorld
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.StorageServer import StorageServer

if TYPE_CHECKING:
    from simulation.machine import Machine, Process
    from simulation.world import World

PORT = 9100
DATA = '/data/Data.fs'
#: What a storage may raise in.
METHODS = ('__len__', 'getSize', 'loadBefore', 'lastTransaction', 'new_oid', 'tpc_begin', 'store', 'tpc_vote',
           'tpc_finish', 'tpc_abort', 'close', 'checkCurrentSerialInTransaction', 'getTid')
#: ... and does so only when the work is done: nobody could help it out of the transaction otherwise.
LATE = ('tpc_abort', 'close')


def fill(storage: Any, world: World) -> None:
    """The database as it is when a run begins."""
    meta = TransactionMetaData(b'', b'', {})
    attempt = world.book.new_attempt('the beginning', (ROOT, *world.accounts, *world.registers, *world.lists))
    storage.tpc_begin(meta)
    storage.store(ROOT, z64, encode_root(attempt.number, attempt.oids[1:]), '', meta)
    for oid in attempt.oids[1:]:
        value = MONEY if oid in world.accounts else 0
        storage.store(oid, z64, encode(Content(value, attempt.number)), '', meta)
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
        super().__init__(DATA, runtime=runtime)
        world.witness(self)

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        super().tpc_begin(transaction, tid, status)
        self._stored = {}

    def store(self, oid: bytes, oldserial: bytes, data: bytes, version: str, transaction: Any) -> None:
        super().store(oid, oldserial, data, version, transaction)
        self._stored[oid] = data

    def tpc_finish(self, transaction: Any, f: Any = None) -> bytes:
        stored = self._stored
        tid: bytes = super().tpc_finish(transaction, f)
        self._world.witnessed[tid] = stored
        self._world.numbers[tid] = int(transaction.description or 0)
        return tid


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
        if hasattr(one, verb):
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
        storage = RaisingFile(self, self.process.runtime)
        if not len(storage):
            fill(storage, self.world)
        return storage

    def _main(self) -> None:
        process, plan = self.process, self.world.plan
        assert process is not None
        storage = None
        try:
            storage = self._open()
            server = StorageServer(
                (self.machine.address, PORT), {'1': storage}, runtime=process.runtime,
                invalidation_queue_size=plan.history_size, transaction_timeout=plan.transaction_timeout_s,
                heartbeat_s=plan.heartbeat_s)
        except Exception as error:
            if not isinstance(error, OSError) and not plan.may_fail(error):
                raise
            if storage is not None:
                with contextlib.suppress(Exception):
                    storage.close()
            process.end()  # somebody starts it again
            return
        self.server = server
        server.loop()
        server.close()
        self._look_for_leaks(process)
        process.end()

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


class Relay(Service):
    """A server in front of the server: its storage is a client (fan-out)."""

    def _open(self) -> Any:
        plan, process = self.world.plan, self.process
        assert process is not None
        return ClientStorage(
            (self.world.service.machine.name, PORT), world=ClientWorld(process.runtime), wait=False,
            wait_timeout=plan.wait_timeout_s, cache_size=plan.cache_size, client_label='relay',
            heartbeat=plan.heartbeat_s)


class Client:
    """A client process, and the next one if that was killed."""

    def __init__(self, world: World, machine: Machine, name: str) -> None:
        self.world = world
        self.machine = machine
        self.name = name
        relay = world.relay
        self.service: Service = world.service if relay is None or machine.dice.chance(0.4) else relay
        self.process: Process | None = None
        self.storage: Any = None
        self.workers: list[Worker] = []
        self.starts = 0
        self.commits = 0  # of all workers there have been
        self.resting = False  # its workers have ended, its storage is open
        self.done = False

    def start(self) -> None:
        """Begin, unless it is there."""
        if not self.machine.up or self.done or self.process is not None and not self.process.dead:
            return
        self.starts += 1
        self.storage, self.workers, self.resting = None, [], False
        process = self.process = self.machine.start(f'{self.name}-{self.starts}')
        process.spawn(self._main, 'main')

    def kill(self) -> None:
        """As by SIGKILL."""
        if self.process is not None and not self.process.dead:
            self.process.kill()

    def _main(self) -> None:
        world, plan = self.world, self.world.plan
        process, kernel = self.process, self.world.kernel
        assert process is not None
        storage, own = None, ClientWorld(process.runtime)
        while storage is None:
            try:
                storage = ClientStorage(
                    (self.service.machine.name, PORT), world=own, wait_timeout=plan.wait_timeout_s,
                    cache=f'/var/{self.name}.zec' if plan.persistent else None, cache_size=plan.cache_size,
                    client_label=self.name, io_thread=plan.io_thread, server_sync=plan.server_sync,
                    heartbeat=plan.heartbeat_s, wait=process.machine.dice.chance(0.7))
            except ClientDisconnected:  # noqa: PERF203 - it tries again
                if not world.working:
                    self._end(own)
                    return
            except OSError:  # of its files
                kernel.sleep(0.1)
        self.storage = storage
        life = Life(process.name)
        adapter = Adapter(storage, life)
        life.first = storage.lastTransaction()
        world.book.lives.append(life)
        tasks = []
        for number in range(plan.threads):
            worker = Worker(world, f'{process.name}/{number}', storage, adapter,
                            process.machine.dice.fork(f'{process.name}/{number}'),
                            self.service is world.service)
            self.workers.append(worker)
            tasks.append(process.spawn(worker.run, f'worker {number}'))
        for task in tasks:
            task.join()
        self.resting = True
        while not world.closing:
            kernel.sleep(0.1)
        life.last = storage.lastTransaction()
        world.look_at_cache(self)
        before = kernel.now
        storage.close()
        if kernel.now - before > 1.5:
            world.book.blame(f'{self.name}: close() took {kernel.now - before:.1f} s (N12)')
        self._end(own)

    def _end(self, own: ClientWorld) -> None:
        assert self.process is not None
        self.done = True
        own.close()
        self.world.look_for_leaks(self.process, 'a client whose storage was closed')
        self.process.end()
