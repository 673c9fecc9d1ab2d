"""A world: machines, a server, clients, and the order of events of one run.

    while things go wrong      clients work, until enough is committed or the time is over
    healed                     faults stop; within 120 s every client has to commit
    at rest                    clients stop working: the server must be free, and is asked for its history
    closed                     storages and server are closed; nothing may be left open
"""
from __future__ import annotations

import contextlib
import gc
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

from simulation.book import Book, Kept
from simulation.bound import bound
from simulation.dice import Dice
from simulation.faults import Faults
from simulation.kernel import Kernel, Stuck
from simulation.machine import Machine, Process
from simulation.network import Network
from simulation.oracles import judge
from simulation.plan import Plan
from simulation.records import decode, file_of, is_blob
from simulation.service import BLOBS, Client, Relay, Service
from simulation.watch import Spins, Watch

#: Within so many seconds after the end of all faults each client must commit.
PATIENCE_S = 120.0
#: Late clients begin within so many seconds.
LATEST_S = 10.0
#: A thread that looks a name up cannot be stopped; that takes so many seconds at most.
SLOWEST_NAME = 5
#: Whether they have is looked at so often, in seconds.
LOOK_S = 0.01


class World:
    """Of one plan.  `tell`: called with a line for everything that happens."""

    def __init__(self, plan: Plan, tell: Any = None) -> None:
        self.plan = plan
        self.dice = Dice(plan.seed, 'world')
        self.book = Book()
        self.kernel = Kernel(plan.seed, plan.switchiness, tell=tell)
        self.network = Network(self.kernel, self.dice.fork('network'), plan.latency_s, plan.window,
                               plan.segment)
        self.machines: list[Machine] = []
        self.working = True
        self.healed = False  # nothing goes wrong any more
        self.closing = False
        self.handed_out: dict[bytes, str] = {}  # oids, and by which server
        self.witnessed: dict[bytes, dict[bytes, bytes]] = {}  # what was committed to a file, by tid
        self.numbers: dict[bytes, int] = {}  # of the attempts that wrote them, by tid
        self.packed_until = b''  # a pack may have removed what is not later
        self.history: list[Any] = []  # (tid, {oid: record or None})
        self.lost_pasts: list[list[Any]] = []  # the same, before a backup was restored
        self.caches: list[Kept] = []
        oids = (number.to_bytes(8, 'big') for number in itertools.count(1))
        self.accounts = [next(oids) for _ in range(plan.accounts)]
        self.registers = [next(oids) for _ in range(3)]
        self.lists = [next(oids) for _ in range(2)]
        self.blobs = [next(oids) for _ in range(plan.blobs)]
        self.counters = [next(oids) for _ in range(plan.counters)]
        self.service = Service(self, self._machine('server'))
        self.relay = Relay(self, self._machine('relay')) if plan.relay else None
        self.services = [self.service] if self.relay is None else [self.service, self.relay]
        hosts = [self._machine(f'host-{number}') for number in range(1 + self.dice.below(plan.clients))]
        for host in hosts if plan.shared_blobs else ():
            host.mount(BLOBS, self.service.machine)
        self.clients = [Client(self, self.dice.choice(hosts), f'client-{number}')
                        for number in range(plan.clients)]
        self.faults = Faults(self)

    def _machine(self, name: str) -> Machine:
        address = f'10.0.0.{len(self.machines) + 1}'
        machine = Machine(self.kernel, self.network, name, address, self.dice.fork(name),
                          self.plan.strict_disk)
        machine.sync_s = self.plan.sync_s
        if self.machines and self.dice.chance(0.5):
            machine.offset_s = self.dice.between(-1000, 1000)
            machine.rate = self.dice.between(0.99, 1.01)
        for directory in '/data', '/var', '/tmp':
            machine.disk.make(directory, 0o040755)
        machine.disk.settle()
        self.machines.append(machine)
        return machine

    # ---- a run ------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the beginning to the verdict, which is in the book."""
        gc.disable()
        try:
            with bound(self.kernel), Watch(self.kernel):
                try:
                    self._to_its_end(self._run)
                finally:
                    self._to_its_end(self._end)
            judge(self)
        finally:
            gc.enable()

    def _to_its_end(self, part: Callable[[], None]) -> None:
        try:
            part()
        except (Stuck, Spins) as error:
            self.book.blame(f'{error}')

    def _run(self) -> None:
        kernel, book, plan = self.kernel, self.book, self.plan
        self.service.start()
        if not kernel.run(lambda: self.service.server is not None, 30.0):
            book.blame('the server does not start')
            return
        for machine in self.machines:
            machine.disk.settle()
        if self.relay is not None:
            self.relay.start()
        for number, client in enumerate(self.clients):
            if plan.late and number:
                kernel.call_later(self.dice.random() * LATEST_S, client.start)
            else:
                client.start()
        self.faults.start()
        kernel.run(lambda: book.acknowledged >= plan.transactions or self._broken(), plan.limit_s)
        self.faults.stop()
        kernel.note('healed')
        self.healed = True
        if not book.faults and not kernel.died and self._heal() and self._rest():
            self._close()

    def _heal(self) -> bool:
        """Everybody commits again."""
        before = {worker: worker.commits for client in self.clients for worker in client.workers}
        looked = [self.kernel.now]

        def everybody() -> bool:
            if self.kernel.now < looked[0]:
                return self._broken()
            looked[0] = self.kernel.now + LOOK_S
            for service in self.services:
                service.start()
            for client in self.clients:
                client.start()
            return self._broken() or all(
                client.workers and all(worker.commits > before.get(worker, 0) for worker in client.workers)
                for client in self.clients)

        if not self.kernel.run(everybody, PATIENCE_S):
            for client in self.clients:
                commits = [worker.commits - before.get(worker, 0) for worker in client.workers]
                self.book.blame(f'{PATIENCE_S:g} s after all faults have stopped {client.name} has committed '
                                f'{commits}; {self._describe(client.process)}')
            for service in self.services:
                self.book.blame(f'... {service.machine.name}: {self._describe(service.process)}')
        return not self._broken()

    def _rest(self) -> bool:
        """Nobody works any more."""
        self.working = False
        clients = self.clients
        if not self.kernel.run(lambda: self._broken() or all(one.resting for one in clients), 100.0):
            self.book.blame(f'threads do not end: {[self._describe(client.process) for client in clients]}')
        if self._broken():
            return False
        self.kernel.run(lambda: False, 2.0)
        # Connections of which one end has gone without a word are noticed by their silence, and what a server
        # in front of another one sends for a client that has gone takes its time.
        self.kernel.run(self._only_clients, 60.0)
        self.kernel.run(self._nobody_commits, 20.0)
        for service in self.services:
            service.call(partial(self._look_at_server, service))
        self.service.call(self._look_at_history)
        return not self._broken()

    def _only_clients(self) -> bool:
        """Is each client connected, and nobody else?"""
        strangers = any(process.name == 'stranger' and not process.dead
                        for machine in self.machines for process in machine.processes)
        return not strangers and all(not service.running or self._has_guests(service)
                                     for service in self.services)

    def _has_guests(self, service: Service) -> bool:
        server = service.server
        return len(server._sessions) == len(server.served['1'].audience) == self._guests(service)

    def _nobody_commits(self) -> bool:
        return not any(service.running and service.server.served['1'].stats.active_txns
                       for service in self.services)

    def _guests(self, service: Service) -> int:
        """How many clients `service` should have: a server in front of another one is its client, too."""
        relays = self.relay is not None and service is self.service
        return sum(client.service is service for client in self.clients) + relays

    def _look_at_server(self, service: Service) -> None:
        """In a thread of the server: is it free?"""
        server, guests = service.server, self._guests(service)
        for _ in range(100):  # a part of a heartbeat may just have arrived, a dead connection be replaced
            status = server.server_status('1')
            if not status['memory'] and status['connections'] == guests:
                break
            self.kernel.sleep(0.1)
        for key, wanted in (('waiting', 0), ('active_txns', 0), ('lock_time', None), ('lock_holder', None),
                            ('connections', guests), ('all_connections', guests),
                            ('memory', 0)):
            if status.get(key) != wanted:
                self.book.blame(f'at rest the status of the server says {key}: {status.get(key)!r}, not '
                                f'{wanted!r}')

    def _look_at_history(self) -> None:
        """... and what is the history?"""
        there = self.transactions_of(self.service.server.storages['1'])
        if self.plan.packs:
            self._compare(there)
            there = {**self.witnessed, **{tid: records for tid, records in there.items()
                                          if tid not in self.witnessed}}
        self.history += sorted(there.items())
        for name in self._left_over():
            self.book.blame(f'at rest the server has left {name}')

    def transactions_of(self, storage: Any) -> dict[bytes, dict[bytes, bytes]]:
        """What they wrote, by tid; that of blobs is looked at."""
        there = {}
        for transaction in storage.iterator():
            there[transaction.tid] = {record.oid: record.data for record in transaction}
            self.numbers[transaction.tid] = int(transaction.description or 0)
        self._look_at_blobs(storage, there)
        return there

    def _left_over(self) -> list[str]:
        """Temporary files that nobody needs any more."""
        disk, found = self.service.machine.disk, []
        for directory in '/tmp', f'{BLOBS}/tmp':
            with contextlib.suppress(FileNotFoundError):
                # In a shared directory that of clients that were killed stays while others write.
                found += [f'{directory}/{name}' for name in disk.find(directory).names
                          if not (self.plan.shared_blobs and name.endswith('.part'))]
        return found

    def _look_at_blobs(self, storage: Any, there: dict[bytes, dict[bytes, bytes]]) -> None:
        """Each revision of a blob has its file, whole (B11)."""
        disk = self.service.machine.disk
        for tid, records in there.items() if self.blobs else ():
            for oid, record in records.items():
                if record and is_blob(record):
                    try:
                        data = bytes(disk.find(storage.fshelper.getBlobFilename(oid, tid)).data)
                    except FileNotFoundError:
                        data = None
                    if data != file_of(decode(record)):
                        self.book.blame(f'the file of blob {oid.hex()} of {tid.hex()} is '
                                        f'{"not there" if data is None else f"wrong: {data[:20]!r}"} (B11)')

    def _close(self) -> None:
        self.closing = True
        if not self.kernel.run(lambda: self._broken() or all(client.done for client in self.clients), 60.0):
            self.book.blame(f'clients do not close: {[self._describe(one.process) for one in self.clients]}')
        for service in reversed(self.services):
            service.stop()
            process = service.process
            if not self.kernel.run(lambda process=process: self._broken() or process.dead, 60.0):  # type: ignore
                self.book.blame(f'the server does not close: {self._describe(process)}')

    def _broken(self) -> bool:
        return bool(self.book.faults or self.kernel.died)

    @staticmethod
    def _describe(process: Process | None) -> str:
        if process is None:
            return 'nobody'
        return f'{process}{" (dead)" if process.dead else ""}: {list(process.tasks)}'

    def _end(self) -> None:
        processes = [*self.kernel.graveyard, *(one for machine in self.machines for one in machine.processes)]
        tasks = [task for process in processes for task in process.tasks]
        for process in processes:
            process.paused = False
        self.kernel.end(tasks)
        for task, _, text in self.kernel.died:
            self.book.blame(f'a thread died: {task.process.name}/{task.name}: {text}')

    def _compare(self, there: dict[bytes, Any]) -> None:
        """What packs have left, and what they must have left."""
        newest: dict[bytes, bytes] = {}
        for tid, records in sorted(self.witnessed.items()):
            newest.update(dict.fromkeys(records, tid))
            if tid > self.packed_until and tid not in there:
                self.book.blame(f'transaction {tid.hex()} is not in the file any more')
        for oid in (*self.accounts, *self.registers, *self.lists, *self.blobs, *self.counters):
            tid = newest[oid]
            if there.get(tid, {}).get(oid) != self.witnessed[tid][oid]:
                self.book.blame(f'after packs the file does not have {oid.hex()} of {tid.hex()}')
        for tid, records in there.items():
            known = self.witnessed.get(tid, records)
            if any(known.get(oid) != data for oid, data in records.items()):
                self.book.blame(f'after packs transaction {tid.hex()} is not what it was')

    def witness(self, storage: Any) -> None:
        """The file was opened: what a killed server has still written counts, what was lost does not.

        A pack never removes the last transaction, for all objects that are written can be reached.
        """
        there = self.transactions_of(storage)
        last = max(there, default=b'')
        self.witnessed = {**there, **{tid: records for tid, records in self.witnessed.items() if tid <= last}}

    # ---- what others ask for ----------------------------------------------------------------------

    def look_for_leaks(self, process: Process, what: str) -> None:
        """In its last task: nothing else may be left of `process`, after a moment."""
        for _ in range(SLOWEST_NAME * 100):
            others = [task for task in process.tasks if task is not self.kernel.current]
            if not others:
                break
            self.kernel.sleep(0.01)
        if others:
            self.book.blame(f'{what} has threads left: {others}')
        left = [f'{fd}: {thing!r}' for fd, thing in process.fds.items() if thing is not None]
        if left:
            self.book.blame(f'{what} has descriptors left: {left}')

    def look_at_cache(self, client: Client | Relay) -> None:
        """Keep what the cache of `client` says, to be compared with the history."""
        cache = client.storage._cache
        last = cache.getLastTid()  # before the rest: more may be told meanwhile
        entries = []
        for oid, start, end in cache.contents():
            found = cache.loadBefore(oid, (int.from_bytes(start, 'big') + 1).to_bytes(8, 'big'))
            if found is not None and found[1] == start:
                entries.append((oid, start, end, found[0]))
        self.caches.append(Kept(client.name, last, self.closing, entries))
