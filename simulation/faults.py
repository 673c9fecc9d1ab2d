"""What goes wrong in a run, and how often.  Called by timers, in the hub."""
from __future__ import annotations

import errno
import math
from functools import partial
from typing import TYPE_CHECKING

from simulation.network import failure
from simulation.plan import OF_PACKER
from simulation.service import METHODS, PORT
from simulation.strangers import visit

if TYPE_CHECKING:
    from simulation.disk import Disk
    from simulation.machine import Process
    from simulation.service import Client, Relay
    from simulation.world import World


#: What may fail in a client.
OPERATIONS = ('open', 'read', 'write', 'truncate', 'rename', 'fsync', 'stat', 'remove')


class Faults:
    """Of `world`, as its plan says, until `stop`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kernel = world.kernel
        self.dice = world.dice.fork('faults')
        self.count = 0
        self._active = False
        self._copies: list[Process] = []  # that were forked
        self._old_ones: list[Client | Relay] = []  # that were there when a backup was restored

    def start(self) -> None:
        """From now on."""
        self._active = True
        for kind in self.world.plan.faults:
            self._plan(kind)

    def stop(self) -> None:
        """No more of them, and what was broken is made whole."""
        self._active = False
        world = self.world
        world.network.jammed = 0.0
        world.network.heal()
        world.service.raises = None
        for child in self._copies:
            child.kill()
        for machine in world.machines:
            machine.disk.make_room()
            if not machine.up:
                machine.boot()
            for process in machine.processes:
                process.fault = None
                process.go_on()
        if 'sync_error' in world.plan.faults:
            world.service.kill()  # as its log says: look after the disk, then restart it
        for service in world.services:
            service.start()
        for one in self._old_ones:
            one.renew()
        for client in world.clients:
            if client.stopping:
                client.kill()
            client.start()

    def _plan(self, kind: str) -> None:
        mean = self.world.plan.faults[kind]
        delay = -mean * math.log(1 - self.dice.random())
        self.kernel.call_later(delay, lambda: self._happen(kind))

    def _happen(self, kind: str) -> None:
        if self._active and kind in OF_PACKER and self.world.service.packer is None:
            self.kernel.call_later(self.dice.random() ** 2, lambda: self._happen(kind))  # when there is one
        elif self._active:
            self.count += 1
            self.kernel.note('fault', kind)
            getattr(self, f'_{kind}')()
            self._plan(kind)

    def _later(self, seconds: float, what: object) -> None:
        """After a while, if it is not all made whole before."""
        assert callable(what)
        self.kernel.call_later(seconds, lambda: what() if self._active else None)

    def _some_time(self, longest: float = 60.0) -> float:
        """Mostly short."""
        return longest * self.dice.random() ** 6 + 0.01

    # ---- the network ------------------------------------------------------------------------------

    def _connection(self) -> object:
        network = self.world.network
        network.drop_closed()
        return self.dice.choice(network.connections) if network.connections else None

    def _reset(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection.reset(self.dice.chance(0.5))  # type: ignore[attr-defined]

    def _lose_end(self) -> None:
        connection = self._connection()
        if connection is not None:
            connection.lose_end(self.dice.chance(0.5))  # type: ignore[attr-defined]

    def _sever(self) -> None:
        one, other = self.dice.sample(self.world.machines, 2)
        self.world.network.sever(one, other, both=self.dice.chance(0.6))
        self._later(self._some_time(), self.world.network.heal)

    def _jam(self) -> None:
        network = self.world.network
        network.jammed = self._some_time(3.0)
        self._later(self._some_time(20.0), lambda: setattr(network, 'jammed', 0.0))

    # ---- processes --------------------------------------------------------------------------------

    def _client(self) -> Client:
        return self.dice.choice(self.world.clients)

    def _kill_client(self) -> None:
        client = self._client()
        client.kill()
        self._later(self._some_time(10.0), client.start)

    def _stop_client(self) -> None:
        client = self._client()
        client.stop()
        self._later(self._some_time(10.0), client.start)

    def _pause_client(self) -> None:
        self._pause(self._client().process)

    def _fork_client(self) -> None:
        """It has a child, which does nothing: what was open stays so until that ends, too."""
        def forked(child: Process) -> None:
            self._copies.append(child)
            self.kernel.call_later(self._some_time(30.0) if self._active else 0.0, child.kill)

        self._client().fork(forked)

    def _pause_server(self) -> None:
        self._pause(self.world.service.process)

    def _pause(self, process: object) -> None:
        if process is not None:
            process.pause()  # type: ignore[attr-defined]
            self._later(self._some_time(), process.go_on)  # type: ignore[attr-defined]

    def _kill_server(self) -> None:
        self.world.service.kill()
        self._later(self._some_time(20.0), self.world.service.start)

    def _kill_relay(self) -> None:
        relay = self.world.relay
        if relay is not None:
            relay.kill()
            self._later(self._some_time(20.0), relay.start)

    def _kill_packer(self) -> None:
        self.world.service.packer.kill()  # type: ignore[union-attr]

    def _pause_packer(self) -> None:
        self._pause(self.world.service.packer)

    def _orphan_packer(self) -> None:
        """It hears too late that its parent was killed: the next one has begun."""
        service = self.world.service
        self._pause(service.packer)
        service.kill()
        self._later(self._some_time(1.0), service.start)

    def _packer_error(self) -> None:
        """An operation of the process that packs fails."""
        operation = self.dice.choice(('open', 'read', 'write'))
        self._fail_once(self.world.service.packer, operation, self.dice.choice((errno.EIO, errno.ENOSPC)), 2)

    def _stop_server(self) -> None:
        service = self.world.service
        service.stop()
        self._later(0.5 + self._some_time(20.0), service.start)

    def _hostile(self) -> None:
        """Somebody who does not speak the protocol, or not to its end, knocks at a server."""
        world = self.world
        machine, service = self._client().machine, self.dice.choice(world.services)
        if machine.up:
            process = machine.start('stranger')
            address = service.machine.address, PORT
            process.spawn(partial(visit, process, address, self.dice.fork(f'stranger {self.count}'),
                                  lambda: not self._active), 'main')

    def _restore_server(self) -> None:
        """A backup is made; the next time the server gets it back, and then each client is started anew."""
        world, service = self.world, self.world.service
        if service.backup is None:
            service.back_up()
        elif not world.lost_pasts and not service.restoring:
            service.restoring = True
            service.kill()
            self._later(self._some_time(5.0), service.start)
            self._old_ones = [*world.clients, *([] if world.relay is None else [world.relay])]
            for one in self._old_ones:
                self._later(0.5 + self._some_time(20.0), partial(self._renew, one))

    def _renew(self, one: Client | Relay) -> None:
        if self.world.service.restoring:
            self._later(1.0, partial(self._renew, one))
        elif one in self._old_ones:
            self._old_ones.remove(one)
            one.renew()

    # ---- operations of the system -----------------------------------------------------------------

    def _sync_error(self) -> None:
        """A sync of the server fails, and what was to be synced is lost by the system or not."""
        self._fail_once(self.world.service.process, 'fsync', errno.EIO)

    def _file_error(self) -> None:
        """An operation of a client fails, of whatever kind."""
        operation = self.dice.choice(OPERATIONS)
        self._fail_once(self._client().process, operation, self.dice.choice((errno.EIO, errno.ENOSPC)))

    def _full_server(self) -> None:
        """No room on the disk of the server for a while."""
        self._fill(self.world.service.machine.disk)

    def _full_client(self) -> None:
        self._fill(self._client().machine.disk)

    def _fill(self, disk: Disk) -> None:
        disk.capacity = disk.used + self.dice.below(3000)
        self._later(self._some_time(10.0), disk.make_room)

    def _raise_storage(self) -> None:
        """The storage of the server raises, the next time that a method of it is called."""
        self.world.service.raises = self.dice.choice(METHODS)

    def _fail_once(self, process: Process | None, operation: str, number: int, most: int = 5) -> None:
        if process is None:
            return
        left = [self.dice.below(most)]

        def fault(asked: str, path: str) -> None:
            if asked == operation and self._active:
                left[0] -= 1
                if left[0] < 0:
                    process.fault = None
                    self.kernel.note('fails', process.name, operation, path)
                    raise failure(number)

        process.fault = fault

    def _accept_error(self) -> None:
        """No descriptor is left for a moment."""
        self._fail_once(self.world.service.process, 'accept', errno.EMFILE)

    # ---- machines ---------------------------------------------------------------------------------

    def _power_server(self) -> None:
        service = self.world.service
        service.server = None
        self._power(service.machine, service.start)

    def _power_client(self) -> None:
        client = self._client()
        there = [one for one in self.world.clients if one.machine is client.machine]
        self._power(client.machine, *[one.start for one in there])

    def _power(self, machine: object, *starts: object) -> None:
        if not machine.up:  # type: ignore[attr-defined]
            return
        machine.lose_power()  # type: ignore[attr-defined]

        def boot() -> None:
            if not machine.up:  # type: ignore[attr-defined]
                machine.boot()  # type: ignore[attr-defined]
                for start in starts:
                    start()  # type: ignore[operator]

        self._later(0.2 + self._some_time(60.0), boot)

    def _clock(self) -> None:
        machine = self.dice.choice(self.world.machines)
        machine.offset_s += self.dice.between(-1, 1) * self.dice.choice((0.01, 1.0, 60.0))
