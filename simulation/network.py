"""The network: machines, what lies between them, and sockets.

A connection is two streams of bytes.  Each takes what fits into its window, cuts it into segments that arrive
one after the other, later, and holds them back while the way is cut.  As with TCP a connection breaks at an
end that hears nothing for half a minute while its way is cut or its peer's machine is off, and at an end that
sends to a socket that is no more.  Nothing here ever waits: sockets are non-blocking, as all of ours are.
"""
from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.polling import ERROR, HANGUP, READ, WRITE, Pollable

if TYPE_CHECKING:
    from simulation.kernel import Kernel
    from simulation.machine import Machine, Process

#: TCP's own patience with a peer that does not answer, in seconds: 30, and what its timers add.
PATIENCE_S = (30.0, 45.0)
#: Into about so many segments is what is sent at once cut, at most: more of them would only take time.
MOST_SEGMENTS = 12
#: After so many seconds a first packet that got no answer is sent again.
AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


def failure(number: int) -> OSError:
    """The exception of an error number; one of its subclasses, as the system's are."""
    return OSError(number, os.strerror(number))


class Network:
    """What lies between machines.  `latency_s`: least and most; `window`: bytes under way at most;
    `segment`: bytes that arrive at once, on average."""

    def __init__(self, kernel: Kernel, dice: Any, latency_s: tuple[float, float], window: int,
                 segment: int) -> None:
        self.kernel = kernel
        self.dice = dice
        self.latency_s = latency_s
        self.window = window
        self.segment = segment
        self.machines: dict[str, Machine] = {}  # by address
        self.cut: dict[tuple[str, str], None] = {}  # from whom to whom nothing arrives
        self.stalled: list[Stream] = []
        self.connections: list[Connection] = []
        self.jammed = 0.0  # each segment takes so much longer

    def delay(self) -> float:
        """How long the next segment takes."""
        low, high = self.latency_s
        # Most are fast, and some are not.
        delay: float = low + (high - low) * self.dice.random() ** 3 + self.jammed
        return delay

    def reaches(self, sender: Machine, receiver: Machine) -> bool:
        """Does what `sender` sends arrive?"""
        return receiver.up and (sender.address, receiver.address) not in self.cut

    def is_whole(self, one: Machine, other: Machine) -> bool:
        """... and what comes back?"""
        return self.reaches(one, other) and self.reaches(other, one)

    # ---- faults -----------------------------------------------------------------------------------

    def sever(self, one: Machine, other: Machine, both: bool = True) -> None:
        """Nothing arrives from `one` at `other` any more, nor the other way."""
        self.cut[one.address, other.address] = None
        if both:
            self.cut[other.address, one.address] = None
        for connection in self.connections:
            if {connection.client.machine, connection.server.machine} == {one, other}:
                connection.worry()

    def heal(self) -> None:
        """Everything arrives again."""
        self.cut.clear()
        stalled, self.stalled = self.stalled, []
        for stream in stalled:
            stream.go_on()

    def drop_closed(self) -> None:
        """Forget connections of which both ends are closed."""
        self.connections = [one for one in self.connections if not (one.client.gone and one.server.gone)]


class Stream:
    """From one end to the other."""

    def __init__(self, network: Network, sender: SimSocket, receiver: SimSocket) -> None:
        self.network = network
        self.sender = sender
        self.receiver = receiver
        self.inbox = bytearray()
        self.flying = 0
        self._segments: deque[tuple[float, bytes | None]] = deque()  # when they arrive; None: the end
        self._last = 0.0
        self._pumping = False

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.network.window - self.flying - len(self.inbox)

    def send(self, data: bytes | None) -> None:
        """`data` is on its way; None: the end of the stream."""
        network = self.network
        pieces: list[bytes | None] = [None]
        if data is not None:
            self.flying += len(data)
            pieces = []
            at, most = 0, max(network.segment, len(data) // MOST_SEGMENTS)
            while at < len(data):
                size = 1 + network.dice.below(2 * most)
                pieces.append(data[at:at + size])
                at += size
        for piece in pieces:
            self._last = max(self._last, network.kernel.now + network.delay())
            self._segments.append((self._last, piece))
        self._pump()

    def _pump(self) -> None:
        if self._segments and not self._pumping:
            self._pumping = True
            kernel = self.network.kernel
            kernel.call_later(self._segments[0][0] - kernel.now, self._arrive)

    def _arrive(self) -> None:
        self._pumping = False
        if not self._segments:
            return
        if not self.network.reaches(self.sender.machine, self.receiver.machine):
            self.network.stalled.append(self)
            return
        now = self.network.kernel.now
        while self._segments and self._segments[0][0] <= now:
            _, data = self._segments.popleft()
            self.flying -= len(data or b'')
            if not self.receiver.take(data):
                self._segments.clear()
                self.network.kernel.call_later(self.network.delay(), self._refuse)
                return
        self._pump()

    def _refuse(self) -> None:
        """There is no such socket at the other end."""
        if self.network.reaches(self.receiver.machine, self.sender.machine):
            self.sender.break_off(errno.ECONNRESET)

    def go_on(self) -> None:
        """The way is free again."""
        if self._segments:
            self._pumping = True
            self.network.kernel.call_later(self.network.delay(), self._arrive)

    def taken(self) -> None:
        """There is room again."""
        self.network.kernel.call_later(self.network.delay() / 2, self.sender.changed)


class Connection:
    """Two ends."""

    def __init__(self, network: Network, client: SimSocket, server: SimSocket) -> None:
        self.network = network
        self.client = client
        self.server = server
        client.peer, server.peer = server, client
        client.out = server.inn = Stream(network, client, server)
        server.out = client.inn = Stream(network, server, client)
        network.connections.append(self)

    def worry(self) -> None:
        """The way is cut, or a machine is off: whoever is still there finds out after a while."""
        patience = self.network.dice.between(*PATIENCE_S)
        self.network.kernel.call_later(patience, self._give_up)

    def _give_up(self) -> None:
        whole = self.network.is_whole(self.client.machine, self.server.machine)
        for end, other in (self.client, self.server), (self.server, self.client):
            if end.is_tuned and (other.gone or other.broken or not whole):
                end.break_off(errno.ECONNRESET if whole else errno.ETIMEDOUT)

    def reset(self, drop: bool) -> None:
        """Something between them breaks it off; with `drop` what has arrived is lost, too."""
        for end in self.client, self.server:
            end.break_off(errno.ECONNRESET, drop)

    def lose_end(self, server: bool) -> None:
        """One end breaks off, and the other one hears nothing of it, but for the silence."""
        (self.server if server else self.client).break_off(errno.ETIMEDOUT)
        self.worry()


class SimSocket(Pollable):
    """A non-blocking TCP socket of `process`; one that waits to be accepted has no descriptor."""

    def __init__(self, process: Process, family: int, waits: bool = False) -> None:
        super().__init__()
        self.process = process
        self.machine: Machine = process.machine
        self.network: Network = process.machine.network
        self.family = family
        self.is_tuned = False
        self.gone = False  # closed, or its process is no more
        self.peer: SimSocket | None = None
        self.out: Stream | None = None
        self.inn: Stream | None = None
        self.error = 0
        self.broken = False
        self._ended = False  # the peer sends no more
        self._read_shut = self._write_shut = False
        self._connecting = False
        self._name: Any = (self.machine.address, 0)
        self._backlog: deque[SimSocket] | None = None  # of a listener
        self._fd = -1 if waits else process.new_fd(self)

    def __repr__(self) -> str:
        return f'<SimSocket {self._fd} of {self.process.name}>'

    # ---- readiness --------------------------------------------------------------------------------

    def ready(self) -> int:
        if self._backlog is not None:
            return READ if self._backlog else 0
        if self.broken or self.error:
            return READ | WRITE | ERROR | HANGUP
        if self.out is None or self.inn is None or self._connecting:
            return 0
        mask = 0
        if self.inn.inbox or self._ended or self._read_shut:
            mask |= READ
        if self._write_shut or self.out.room > 0:
            mask |= WRITE
        if self._write_shut and (self._ended or self._read_shut):
            mask |= HANGUP
        return mask

    # ---- as sockets are used ----------------------------------------------------------------------

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool) -> None:
        assert not flag, 'sockets of the simulation never block'

    def getblocking(self) -> bool:
        return False

    def getsockname(self) -> Any:
        return self._name

    def getpeername(self) -> Any:
        if self.peer is None:
            raise failure(errno.ENOTCONN)
        return self.peer.getsockname()

    def listen_at(self, port: int, backlog: int | None) -> None:
        """Take the port, and connections unless `backlog` is None."""
        self._name = (self.machine.address, port)
        self._backlog = None if backlog is None else deque()
        self.machine.listeners[port] = self

    def connect_ex(self, address: Any) -> int:
        self._check()
        self._connecting = True
        self._name = (self.machine.address, self.machine.next_port())
        self._knock(address, 0)
        return errno.EINPROGRESS

    def _knock(self, address: Any, attempt: int) -> None:
        """A first packet is on its way."""
        network = self.network
        network.kernel.call_later(network.delay(), lambda: self._knocked(address, attempt))

    def _knocked(self, address: Any, attempt: int) -> None:
        network = self.network
        there = network.machines.get(address[0])
        if self.gone or not self._connecting:
            return
        if there is None or not network.is_whole(self.machine, there):
            if attempt < len(AGAIN_S):
                network.kernel.call_later(AGAIN_S[attempt], lambda: self._knock(address, attempt + 1))
            else:
                self._fail(errno.ETIMEDOUT if there is not None else errno.EHOSTUNREACH)
            return
        listener = there.listeners.get(address[1])
        if listener is None or listener._backlog is None:
            network.kernel.call_later(network.delay(), lambda: self._fail(errno.ECONNREFUSED))
            return
        guest = SimSocket(listener.process, self.family, waits=True)
        guest._name = listener._name
        Connection(network, self, guest)
        listener._backlog.append(guest)
        listener.changed()
        network.kernel.call_later(network.delay(), self._connected)

    def _connected(self) -> None:
        if self._connecting:
            self._connecting = False
            self.changed()

    def _fail(self, number: int) -> None:
        if self._connecting:
            self._connecting = False
            self.error = number
            self.changed()

    def pending_error(self) -> int:
        """As SO_ERROR: asked once."""
        error, self.error = self.error, 0
        return error

    def accept(self) -> tuple[SimSocket, Any]:
        self._check()
        self.network.kernel.give_way()
        if not self._backlog:
            raise failure(errno.EAGAIN)
        if self.process.fails('accept'):
            raise failure(errno.EMFILE)
        guest = self._backlog.popleft()
        guest._fd = self.process.new_fd(guest)
        return guest, guest.getpeername()

    def send(self, data: Any) -> int:
        self._check()
        self.network.kernel.give_way()
        self._raise_error()
        if self.broken or self._write_shut or self.out is None:
            raise failure(errno.EPIPE)
        size = len(data)
        count = min(size, self.out.room)
        if count <= 0 and size:
            raise failure(errno.EAGAIN)
        self.out.send(bytes(data[:count]))
        return count

    def recv(self, size: int) -> bytes:
        self._check()
        self.network.kernel.give_way()
        stream = self.inn
        if stream is not None and stream.inbox:
            inbox = stream.inbox
            if size > 1 and self.network.dice.chance(0.1):
                size = 1 + self.network.dice.below(min(size, len(inbox)))
            data = bytes(inbox[:size])
            del inbox[:size]
            stream.taken()
            return data
        self._raise_error()
        if self.broken or self._ended or self._read_shut:
            return b''
        raise failure(errno.EAGAIN)

    def shutdown(self, how: int) -> None:
        self._check()
        if self.broken or self.out is None or self._connecting:
            raise failure(errno.ENOTCONN)
        if not self._write_shut:
            self.out.send(None)
        self._read_shut = self._write_shut = True
        self.changed()

    def close(self) -> None:
        if self._fd < 0:
            return
        self.process.free_fd(self._fd)
        self._fd = -1
        if not self.process.is_shared(self):
            self.vanish()
        self.forget_watchers()

    # ---- of the system ----------------------------------------------------------------------------

    def vanish(self, silently: bool = False) -> None:
        """It is closed, or its process was killed; `silently`: the machine is off."""
        self.gone = True
        self._connecting = False
        if self.machine.listeners.get(self._name[1]) is self:
            del self.machine.listeners[self._name[1]]
        if self._backlog is not None:
            backlog, self._backlog = self._backlog, None
            for guest in backlog:
                guest.vanish(silently)
        if silently or self.out is None or self.inn is None or self.broken:
            return
        if self.inn.inbox:  # what nobody has read is told as a reset
            self._tell_peer(lambda peer: peer.break_off(errno.ECONNRESET))
        elif not self._write_shut:
            self.out.send(None)

    def _tell_peer(self, tell: Callable[[SimSocket], object]) -> None:
        peer = self.peer

        def told() -> None:
            if peer is not None and self.network.reaches(self.machine, peer.machine):
                tell(peer)

        self.network.kernel.call_later(self.network.delay(), told)

    def take(self, data: bytes | None) -> bool:
        """Something arrives; False if there is nobody."""
        if self.gone or self.broken:
            return self.broken or data is None
        if data is None:
            self._ended = True
        else:
            assert self.inn is not None
            self.inn.inbox += data
            self.network.kernel.note('arrives', self.process.name, self._name[1], len(data))
        self.changed()
        return True

    def break_off(self, number: int, drop: bool = False) -> None:
        """The connection is no more."""
        if self.gone or self.broken:
            return
        self.broken = True
        self.error = number
        if drop and self.inn is not None:
            self.inn.inbox.clear()
        self.network.kernel.note('breaks', self.process.name, self._name[1], errno.errorcode[number])
        self.changed()

    def _check(self) -> None:
        if self._fd < 0:
            raise failure(errno.EBADF)

    def _raise_error(self) -> None:
        if self.error:
            raise failure(self.pending_error())

    def __enter__(self) -> SimSocket:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class PairEnd(Pollable):
    """One end of a socket pair within a process."""

    SIZE = 64 << 10

    def __init__(self, process: Process) -> None:
        super().__init__()
        self.process = process
        self.other: PairEnd = self
        self._inbox = bytearray()
        self._closed = False
        self._fd = process.new_fd(self)

    def ready(self) -> int:
        full = len(self.other._inbox) >= self.SIZE
        return (READ if self._inbox or self.other._closed else 0) | (0 if full else WRITE)

    def fileno(self) -> int:
        return self._fd

    def setblocking(self, flag: bool) -> None:
        assert not flag, 'sockets of the simulation never block'

    def send(self, data: bytes) -> int:
        if self._closed:
            raise failure(errno.EBADF)
        self.process.machine.network.kernel.give_way()
        if self.other._closed:
            raise failure(errno.EPIPE)
        if len(self.other._inbox) >= self.SIZE:
            raise failure(errno.EAGAIN)
        self.other._inbox += data
        self.other.changed()
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._closed:
            raise failure(errno.EBADF)
        if not self._inbox:
            if self.other._closed:
                return b''
            raise failure(errno.EAGAIN)
        data = bytes(self._inbox[:size])
        del self._inbox[:size]
        return data

    def close(self) -> None:
        if not self._closed:
            self.process.free_fd(self._fd)
            self._fd = -1
            self._closed = True
            self.other.changed()
            self.forget_watchers()

    def vanish(self, silently: bool = False) -> None:
        """Its process is no more; so is the other end."""
