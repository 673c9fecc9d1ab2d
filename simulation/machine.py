"""Machines and processes: what fails as a whole.

A machine has a disk, an address, a clock of its own and processes.  A process has descriptors and tasks; it
may be killed, paused and started anew, and its machine may lose power.  `Process.runtime` is what the
product gets instead of the real world.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.dice import Dice
from simulation.disk import Disk
from simulation.runtime import SimRuntime

if TYPE_CHECKING:
    from simulation.kernel import Kernel, Task
    from simulation.network import Network

#: When all runs begin: seconds since 1970.
EPOCH = 1_800_000_000.0
#: The first port that the system picks.
FIRST_PORT = 32_768


class Machine:
    """A host at `address`."""

    def __init__(self, kernel: Kernel, network: Network, name: str, address: str, dice: Dice,
                 strict: bool = False) -> None:
        self.kernel = kernel
        self.network = network
        self.name = name
        self.address = address
        self.dice = dice
        self.up = True
        self.boots = 0
        self.offset_s = 0.0  # of its clock, from the true time
        self.rate = 1.0  # of its clock
        self.disk = Disk(dice.fork('disk'), self.wall_clock, strict)
        self.sync_s = (0.0002, 0.002)
        self.listeners: dict[int, Any] = {}
        self.processes: list[Process] = []
        self._lockers: list[Task] = []  # tasks that wait for locks of files
        self.sharing = [self]  # the machines whose files may be the same
        self._port = FIRST_PORT
        network.machines[address] = self

    def __repr__(self) -> str:
        return f'<Machine {self.name}>'

    def wall_clock(self) -> float:
        """What its clock shows; it may differ from others', and step."""
        return EPOCH + self.kernel.now * self.rate + self.offset_s

    def next_port(self) -> int:
        """A port that nobody has."""
        self._port += 1
        return self._port

    def start(self, name: str) -> Process:
        """A new process."""
        process = Process(self, name)
        self.processes.append(process)
        return process

    # ---- locks of files ---------------------------------------------------------------------------

    def wait_for_lock(self) -> None:
        """Until somebody gives one up."""
        self._lockers.append(self.kernel.current)
        self.kernel.park(None, 'a locked file')

    def wake_lockers(self) -> None:
        """Somebody has."""
        for machine in self.sharing:
            lockers, machine._lockers = machine._lockers, []
            for task in lockers:
                self.kernel.wake(task)

    def mount(self, directory: str, server: Machine) -> None:
        """Have the directory of another machine."""
        self.disk.mounts[directory] = server.disk
        server.sharing.append(self)
        self.sharing = server.sharing

    # ---- power ------------------------------------------------------------------------------------

    def lose_power(self) -> None:
        """All processes end, nobody is told, and files are as the disk has them."""
        self.kernel.note('power', self.name)
        self.up = False
        self.disk.away = True
        for process in self.processes:
            process.end(silently=True)
        self.processes = []
        self.listeners.clear()
        for connection in self.network.connections:
            if self in (connection.client.machine, connection.server.machine):
                connection.worry()
        self.disk.lose_power()

    def boot(self) -> None:
        """It is there again."""
        self.kernel.note('boot', self.name)
        self.up = True
        self.disk.away = False
        self.boots += 1
        stalled, self.network.stalled = self.network.stalled, []
        for stream in stalled:
            stream.go_on()


class Process:
    """A process on a machine."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.kernel = machine.kernel
        self.name = name
        self.pid = 1000 + len(machine.network.machines) + machine.kernel._born
        self.tasks: dict[Task, None] = {}
        self.held: list[Task] = []
        self.fds: dict[int, Any] = {0: None, 1: None, 2: None}
        self.dead = False
        self.paused = False
        self.stood_s = 0.0  # for how long in all; while it is paused, up to then
        self._paused_at = 0.0
        self.fault: Callable[[str, str], None] | None = None  # may raise OSError: ``fault(operation, path)``
        self.is_child_of: Process | None = None
        self.family = [self]  # with whom it shares what was open at a fork
        self.pace_s = 0.0  # what a step takes at most, if that is not to be neglected
        self.runtime = SimRuntime(self)

    def __repr__(self) -> str:
        return f'<Process {self.name}>'

    def spawn(self, target: Callable[[], object], name: str) -> Task:
        """A thread."""
        return self.kernel.spawn(self, target, name)

    def step(self) -> None:
        """Something that takes a while, if anything does."""
        if self.pace_s and not self.kernel.ending:
            self.kernel.sleep(self.machine.dice.between(0, self.pace_s))

    # ---- descriptors ------------------------------------------------------------------------------

    def new_fd(self, thing: Any) -> int:
        """The lowest number that is free."""
        fd = self.next_fd()
        self.fds[fd] = thing
        return fd

    def next_fd(self) -> int:
        fd = 3
        while fd in self.fds:
            fd += 1
        return fd

    def free_fd(self, fd: int) -> None:
        """It is closed."""
        self.fds.pop(fd, None)

    def fork(self) -> Process:
        """A child that does nothing, and has what is open."""
        self.kernel.note('fork', self.name)
        child = self.machine.start(f'child of {self.name}')
        child.fds = dict(self.fds)
        child.family = self.family
        self.family.append(child)
        return child

    def is_shared(self, thing: Any) -> bool:
        """Does another process have it, too?  Then it stays open."""
        return any(thing in one.fds.values() for one in self.family if one is not self and not one.dead)

    # ---- faults -----------------------------------------------------------------------------------

    def may_fail(self, operation: str, path: str) -> None:
        """Raises OSError if the operation is to fail."""
        if self.fault is not None:
            self.fault(operation, path)

    def fails(self, operation: str) -> bool:
        """Is the operation to fail?"""
        try:
            self.may_fail(operation, '')
        except OSError:
            return True
        return False

    def kill(self) -> None:
        """As by SIGKILL: the system closes what was open."""
        self.kernel.note('kill', self.name)
        self.end()
        if self in self.machine.processes:
            self.machine.processes.remove(self)

    def end(self, silently: bool = False) -> None:
        """No task of it gets another turn."""
        if self.dead:
            return
        self.dead = True
        self.held = []
        for thing in list(self.fds.values()):
            if thing is not None and not self.is_shared(thing):
                thing.vanish(silently)
        self.machine.wake_lockers()
        self.kernel.graveyard.append(self)

    def pause(self) -> None:
        """As by SIGSTOP."""
        self.kernel.note('pause', self.name)
        if not self.paused:
            self.paused, self._paused_at = True, self.kernel.now

    def go_on(self) -> None:
        """As by SIGCONT."""
        if self.paused:
            self.kernel.note('goes on', self.name)
            self.paused = False
            self.stood_s += self.kernel.now - self._paused_at
            held, self.held = self.held, []
            self.kernel.resume(held)


def path_of(*parts: str) -> str:
    """In a simulated file system."""
    return os.path.join('/', *parts)
