"""Processes that the product starts: the one that packs a FileStorage.

It runs on the machine of its parent and has the same files; two pipes join them.  It ends when it is done, is
killed or ends itself, and lives on where its parent is killed, until it hears of that.  What it copies takes
its time, so that all of this happens amid a pack.

`names` is what takes the place of names of `zeo_clone.configuration.packer`, which has no door of its own.
"""
from __future__ import annotations

import contextlib
import errno
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from simulation.kernel import Killed
from simulation.network import failure
from simulation.sync import Condition, RLock, _Waiting
from zeo_clone.configuration import packer
from zeo_clone.loop.runtime import REAL

if TYPE_CHECKING:
    from simulation.bound import Binding, System
    from simulation.kernel import Kernel
    from simulation.machine import Process

#: What processes that pack are called.
NAME = 'packer'
#: What a step of such a process takes at most, in seconds: one of these.
PACES_S = 0.0001, 0.003, 0.03
#: Their files are small: that much at the end, in bytes, is worth another round.
REST = 3000


class Pipe(_Waiting):
    """Bytes from one process to another one."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.data = bytearray()
        self.ends = 2

    def close(self) -> None:
        """One of its ends is."""
        self.ends -= 1
        self._wake_all()

    def take_line(self) -> bytes:
        """Wait for a line; what there is if nobody writes any more."""
        while b'\n' not in self.data and self.ends == 2:
            self._wait(None)
        line = bytes(self.data[:self.data.find(b'\n') + 1 or len(self.data)])
        del self.data[:len(line)]
        return line

    def add(self, data: bytes) -> None:
        """Raises BrokenPipeError if nobody reads any more."""
        if self.ends < 2:
            raise failure(errno.EPIPE)
        self.data += data
        self._wake_all()

    def wait_for_end(self) -> None:
        """Until one of its ends is closed."""
        while self.ends == 2:
            self._wait(None)


class End:
    """Of a pipe, as a file; `fd`: its number, the next one that is free if it is not given."""

    def __init__(self, process: Process, pipe: Pipe, fd: int | None = None) -> None:
        self._process = process
        self._pipe = pipe
        self._fd = process.next_fd() if fd is None else fd
        process.fds[self._fd] = self

    def vanish(self, silently: bool = False) -> None:
        """Its process is no more."""
        self._pipe.close()

    def close(self) -> None:
        if self._process.fds.pop(self._fd, None) is not None and not self._process.dead:
            self._pipe.close()

    def write(self, data: bytes | str) -> None:
        self._process.kernel.give_way()
        self._pipe.add(data.encode() if isinstance(data, str) else data)

    def flush(self) -> None:
        """It is written already."""

    def readline(self) -> bytes:
        return self._pipe.take_line()

    def __iter__(self) -> Any:
        return iter(self.readline, b'')


class Child:
    """As ``subprocess.Popen``, of the process that packs."""

    def __init__(self, parent: Process, fds: list[int]) -> None:
        parent.may_fail('fork', NAME)
        kernel = parent.kernel
        self._process = process = parent.machine.start(f'{NAME} of {parent.name}')
        process.is_child_of = parent
        process.pace_s = parent.machine.dice.choice(PACES_S)
        there, self._back = Pipe(kernel), Pipe(kernel)
        self.stdin, self.stdout = End(parent, there), End(parent, self._back)
        self._code = -9
        End(process, there, 0)
        End(process, self._back, 1)
        for fd in fds:
            process.fds[fd] = parent.fds[fd]
        process.spawn(self._run, 'main')

    def _run(self) -> None:
        process = self._process
        process.step()
        line = process.fds[0].readline()
        self._code = 1
        if line:
            call = json.loads(line)
            del call['sys_path']
            with contextlib.suppress(BrokenPipeError):  # it tells nobody any more, and ends with a traceback
                packer.main(call)
                self._code = 0
        process.end()

    def kill(self) -> None:
        if not self._process.dead and not self._process.kernel.ending:
            self._process.kill()

    def wait(self) -> int:
        self._back.wait_for_end()
        return self._code

    def __exit__(self, *_: object) -> None:
        for end in self.stdin, self.stdout:
            end.close()
        self.wait()


class Paced(RLock):
    """A lock in a child, which takes it before each transaction that it copies: that takes its time."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._kernel.current.process.step()
        return super().acquire(blocking, timeout)


class Queue:
    """As ``queue.SimpleQueue``."""

    def __init__(self, kernel: Kernel) -> None:
        self._change = Condition(kernel)
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        with self._change:
            self._items.append(item)
            self._change.notify()

    def get(self) -> Any:
        with self._change:
            while not self._items:
                self._change.wait()
            return self._items.pop(0)


class Door:
    """The runtime of whichever process runs."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._binding.runtime or REAL, name)

    def rlock(self) -> Any:
        return Paced(self._binding.kernel)


def names(binding: Binding, system: System) -> dict[str, Any]:
    """By what the module's names are to be replaced."""
    def current() -> Any:
        return binding.process

    def leave(code: int) -> None:
        current().end()
        raise Killed(code)

    def start(command: Any, *, pass_fds: list[int], **keywords: Any) -> Child:
        return Child(current(), pass_fds)

    class Streams:
        """As ``sys``."""

        executable = '/usr/bin/python3'
        path = ('/usr/lib/python3',)
        stdin = property(lambda self: current().fds[0])

    its_os = type(system)(binding)
    its_os.__dict__.update(dup=lambda fd: fd, dup2=lambda fd, other: other, nice=lambda more: more,
                           _exit=leave, fdopen=lambda fd, *args, **keywords: current().fds[fd])
    return {'os': its_os, 'sys': Streams(), 'REAL': Door(binding), 'SMALL': 0, 'REST': REST,
            'open': binding.open, 'queue': SimpleNamespace(SimpleQueue=lambda: Queue(binding.kernel)),
            'subprocess': SimpleNamespace(Popen=start, PIPE=-1)}
