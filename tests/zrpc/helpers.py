"""Two cores over a fake wire, recorded traffic, and servers that do what a script says."""
from __future__ import annotations

import collections
import json
import queue
import socket
import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import strategies as st

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel.calls import ConnectionLost
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.connection import Agreed, Call, Changes, ClientCore, ServerCore
from zeo_clone.zrpc.frames import frame

DATA = Path(__file__).parent.parent / 'data'
TRANSCRIPTS = ('z5-zeo-6.2', 'z4-zeo-4.3.1')


class Recorded(NamedTuple):
    """One frame of a transcript."""

    connection: int
    sender: str  # 'client' or 'server'
    content: bytes


def transcript(name):
    """The frames of a recorded session, in order, of all its connections."""
    with open(DATA / f'{name}.jsonl') as lines:
        entries = [json.loads(line) for line in lines]
    return [Recorded(entry['connection'], entry['from'], bytes.fromhex(entry['frame']))
            for entry in entries if 'frame' in entry]


def in_pieces(data, step):
    """`data` in pieces of `step` bytes; 0: in one."""
    step = step or max(1, len(data))
    return [data[start:start + step] for start in range(0, len(data), step)]


def feed(core, data, step=0):
    """The events that `core` makes of `data`, given in pieces of `step` bytes."""
    return [event for piece in in_pieces(data, step) for event in one_by_one(core.receive_data(piece))]


def one_by_one(events):
    """`events` with a `Call` for each notice, as they are where notices do not come in one piece."""
    for event in events:
        if type(event) is Changes:
            yield from (Call(None, 'invalidateTransaction', change, True) for change in event.changes)
        else:
            yield event


def feed_until_fault(core, data, step=0):
    """``(events, text of the fault or None)``: whatever a peer sends is an event or a ProtocolError."""
    events = []
    try:
        for piece in in_pieces(data, step):
            for event in one_by_one(core.receive_data(piece)):
                events.append(event)  # noqa: PERF402 - what came before the fault counts
    except ProtocolError as error:
        return events, str(error)
    return events, None


def fresh_client(limit=1 << 20):
    return ClientCore(limit)


def open_client(limit=1 << 20):
    """A client's core after its handshake and register."""
    core = ClientCore(limit)
    assert feed(core, frame(b'Z5')) == [Agreed('Z5')]
    core.registered()
    return core


def agreed_server(protocol='Z5', limit=1 << 20):
    """A server's core after the handshake."""
    core = ServerCore(limit)
    assert feed(core, frame(protocol.encode())) == [Agreed(protocol)]
    return core


def open_server(protocol='Z5', limit=1 << 20):
    """A server's core after register."""
    core = agreed_server(protocol, limit)
    core.registered()
    return core


class Wire:
    """A client's and a server's core; what one sends the other receives in pieces of `step` bytes."""

    def __init__(self, step=0):
        self.step = step
        self.client = ClientCore()
        self.server = ServerCore()

    def to_server(self, data):
        return feed(self.server, data, self.step)

    def to_client(self, data):
        return feed(self.client, data, self.step)

    def shake_hands(self):
        assert self.to_client(self.server.greet()) == [Agreed('Z5')]
        assert self.to_server(self.client.send_hello()) == [Agreed('Z5')]

    def register(self):
        call, = self.to_server(self.client.send_call('register', ('1', False), 'registering'))
        self.server.registered()
        result, = self.to_client(self.server.send_reply(call.id, b'\0' * 8))
        assert (call.name, call.args, result.token, result.value) == (
            'register', ('1', False), 'registering', b'\0' * 8)
        self.client.registered()


#: Values that messages may carry.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1 << 63, 1 << 63) | st.binary(max_size=300)
    | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=['Cs']), max_size=30),
    lambda values: st.lists(values, max_size=4) | st.tuples(values, values) | st.just(())
    | st.dictionaries(st.text(st.characters(exclude_categories=['Cs']), max_size=5), values, max_size=3),
    max_leaves=8)
OIDS = st.binary(min_size=8, max_size=8)
IDS_31 = st.integers(1, 0x7fffffff)


# ---- channels -----------------------------------------------------------------------------------

#: So long a test waits for what must come before it fails, in seconds; a successful test never does.
PATIENCE_S = 30
#: More than the buffers of a pair of sockets hold.
BIG = bytes(6 << 20)
OID, TID = b'\0' * 7 + b'\1', b'\3' * 8


class Background:
    """`function` in a thread; `result` waits for it and returns, or raises, what it did."""

    def __init__(self, function, *args):
        self._function = function
        self._args = args
        self._value = None
        self._error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.ident = self._thread.ident

    def _run(self):
        try:
            self._value = self._function(*self._args)
        except BaseException as error:
            self._error = error

    def result(self):
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), 'it still waits'
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._value


class WatchedLock:
    """A lock that tells when somebody begins to sleep until it is released."""

    def __init__(self, sleeps):
        self._sleeps = sleeps
        self._lock = threading.Lock()
        self.on_exit = None  # called after the end of a `with`, once
        self.wanted = False  # somebody had to wait for a `with`

    def acquire(self, blocking=True):
        if not self._lock.acquire(blocking=False):
            if not blocking:
                return False
            self._sleeps.put(threading.get_ident())
            self._lock.acquire()
        return True

    def release(self):
        self._lock.release()

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self.wanted = True
            self._lock.acquire()

    def __exit__(self, *exc_info):
        self._lock.release()
        on_exit, self.on_exit = self.on_exit, None
        if on_exit is not None:
            on_exit()


class WatchingRuntime(Runtime):
    """The real one, telling which thread begins to wait for what: ``waits`` for a socket, as the reader
    does, ``sleeps`` for a lock, as a follower does."""

    def __init__(self):
        self.waits = queue.Queue()
        self.sleeps = queue.Queue()

    def lock(self):
        return WatchedLock(self.sleeps)

    def wait(self, fd, read, write, timeout):
        self.waits.put(threading.get_ident())
        return super().wait(fd, read, write, timeout)

    def reader(self):
        """The ident of the thread that waits for the socket, as soon as one does."""
        return self.waits.get(timeout=PATIENCE_S)

    def follower(self):
        """The ident of the thread that sleeps, as soon as one does."""
        return self.sleeps.get(timeout=PATIENCE_S)


class Notes:
    """A channel's handler that notes what it is told, and in which thread."""

    def __init__(self):
        self.channel = None
        self.agreed = queue.Queue()
        self.notices = queue.Queue()  # (name, args, ident)
        self.lost = []
        self.on_notice = None

    def handle_agreed(self, protocol):
        self.channel.send_async(self.channel.core.send_hello())
        self.agreed.put(protocol)

    def handle_notice(self, name, args):
        self.notices.put((name, args, threading.get_ident()))
        if self.on_notice is not None:
            self.on_notice(name, args)

    def handle_changes(self, changes):
        for change in changes:
            self.handle_notice('invalidateTransaction', change)

    def handle_lost(self, error):
        self.lost.append(error)

    def notice(self):
        """The next notice, as soon as it is there."""
        return self.notices.get(timeout=PATIENCE_S)


class FakeServer:
    """The other end of a channel, doing what a test says: blocking, in the test's thread."""

    def __init__(self, sock):
        self.socket = sock
        self.core = ServerCore()
        self._calls = collections.deque()
        sock.settimeout(PATIENCE_S)

    def handshake(self):
        self.socket.sendall(self.core.greet())
        assert self.socket.recv(6) == frame(b'Z5')
        self.core.receive_data(frame(b'Z5')).__next__()
        self.core.registered()

    def call(self):
        """The next call of the client."""
        while not self._calls:
            data = self.socket.recv(1 << 16)
            assert data, 'the client has gone'
            self._calls.extend(self.core.receive_data(data))
        return self._calls.popleft()

    def calls(self, count):
        """The next calls, by the first of their arguments."""
        return {call.args[0]: call for call in (self.call() for _ in range(count))}

    def reply(self, call, value=None):
        self.socket.sendall(self.core.send_reply(call.id, value))

    def notify(self, *args):
        self.socket.sendall(self.core.send_oneway('notice', args))

    def close(self):
        self.socket.close()


class Connection:
    """A client's channel and the fake server at its other end."""

    def __init__(self, runtime, threaded):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.runtime = runtime
        self.loop = Loop(runtime)
        self.notes = Notes()
        self.channel = ClientChannel(self.loop, Transport(ours, runtime), ClientCore(), self.notes)
        self.notes.channel = self.channel
        self.server = FakeServer(theirs)
        self.loop_thread = Background(self.loop.run) if threaded else None

    def open(self):
        """Start the channel and shake hands."""
        handshake = Background(self.server.handshake)
        self.loop.door(self.channel.start)
        while self.loop_thread is None and not self.notes.agreed.qsize():
            self.loop.turn(None)
        assert self.notes.agreed.get(timeout=PATIENCE_S) == 'Z5'
        handshake.result()
        self.channel.core.registered()

    def call(self, *args, on_reply=None):
        """Call ``ping(*args)`` in a thread."""
        return Background(self.channel.call, 'ping', args, on_reply)

    def leader(self, *args, on_reply=None):
        """`call` in a thread that has become the reader."""
        call = self.call(*args, on_reply=on_reply)
        assert self.runtime.reader() == call.ident
        return call

    def follower(self, *args, on_reply=None):
        """`call` in a thread that sleeps because another one is the reader."""
        call = self.call(*args, on_reply=on_reply)
        assert self.runtime.follower() == call.ident
        return call

    def lost_by(self):
        """The one error that the handler was told when the connection was lost."""
        error, = self.notes.lost
        return error

    def close(self):
        self.channel.abort(ConnectionAbortedError('the test ends'))
        if self.loop_thread is not None:
            self.loop.stop()
            self.loop_thread.result()
        self.loop.close()
        self.server.close()


def assert_disconnected(calls, match):
    """They were sent; what became of them on the server is not known."""
    for call in calls:
        with pytest.raises(ConnectionLost, match=match):
            call.result()
