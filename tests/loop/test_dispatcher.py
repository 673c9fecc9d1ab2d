from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from tests.loop.recorder import Recorder
from tests.loop.runtimes import Counting
from tests.support.forks import told_by_child
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Acceptor, Dispatcher
from zeo_clone.loop.poller import ERROR, READ, WRITE
from zeo_clone.loop.runtime import AF_INET, REAL, Endpoint

# ---- any dispatcher -----------------------------------------------------------------------------


def test_events_go_to_their_handlers_writing_first(loop, pair):
    dispatcher = Recorder(loop, pair[0])
    for mask in (READ, WRITE, READ | WRITE, ERROR):
        dispatcher.handle_event(mask)
    assert dispatcher.events == ['read', 'write', 'write', 'read', 'read']


def test_dispatcher_closed_while_it_writes_does_not_read(loop, pair):
    class Closer(Recorder):
        def handle_write(self):
            super().handle_write()
            self.close()

    dispatcher = Closer(loop, pair[0])
    dispatcher.open(READ | WRITE)
    pair[1].send(b'x')
    loop.turn(0)
    assert dispatcher.events == ['write']


def test_want_adds_and_takes_away_one_event(loop, pair):
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open(READ)
    pair[1].send(b'x')
    dispatcher.want(WRITE)
    loop.turn(0)
    dispatcher.want(READ, False)
    loop.turn(0)
    dispatcher.want(WRITE, False)
    loop.turn(0)
    assert dispatcher.events == ['write', 'read', 'write']


def test_interest_reaches_the_kernel_on_transition_only(pair):
    runtime = Counting()
    loop = Loop(runtime)
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open(READ)
    before = len(runtime.changes)
    for _ in range(10):
        dispatcher.want(READ)
        dispatcher.want(WRITE, False)
        loop.turn(0)
    assert len(runtime.changes) == before
    loop.close()


def test_close_may_be_called_twice_and_closes_the_descriptor_once(loop, pair):
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open(READ)
    dispatcher.close()
    dispatcher.close()
    dispatcher.set_interest(READ)  # too late: nothing happens
    assert dispatcher.closed
    assert len(loop) == 0
    assert pair[0].fileno() == -1


def test_repr_names_the_descriptor(loop, pair):
    dispatcher = Recorder(loop, pair[0])
    assert repr(dispatcher) == f'<Recorder fd {pair[0].fileno()}>'
    dispatcher.close()
    assert repr(dispatcher) == '<Recorder closed>'


def test_a_child_drops_its_copy_and_the_peer_notices_nothing(loop, pair):
    """N10."""
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open(READ)

    def child():
        dispatcher.orphan()
        return f'{dispatcher.closed} {dispatcher.socket.fileno()}'

    assert told_by_child(child) == 'True -1'
    pair[0].send(b'x')
    assert pair[1].recv(10) == b'x'


def test_what_nobody_overrides_does_nothing(loop, pair):
    """But for the end, which closes it."""
    dispatcher = Dispatcher(loop, pair[0])
    dispatcher.open(READ)
    for handle in dispatcher.handle_read, dispatcher.handle_write, dispatcher.handle_connect:
        handle()
    dispatcher.handle_accept(pair[1], None)
    assert not dispatcher.closed
    dispatcher.handle_close()
    assert dispatcher.closed


# ---- acceptors ----------------------------------------------------------------------------------

class Guest:
    """What a stub of a listening socket accepts."""

    def __init__(self, error=None):
        self.error = error
        self.closed = False

    def setblocking(self, flag):
        if self.error is not None:
            raise self.error

    def close(self):
        self.closed = True


class Listener:
    """A listening socket that does what its script says, then says that nobody is waiting."""

    def __init__(self, sock, script):
        self.fileno = sock.fileno
        self.close = sock.close
        self.script = list(script)

    def accept(self):
        what = self.script.pop(0) if self.script else BlockingIOError()
        if isinstance(what, Exception):
            raise what
        return what, 'somewhere'


class Door(Acceptor):
    """Keeps its guests; refuses the unwelcome."""

    def __init__(self, loop, sock, unwelcome=()):
        super().__init__(loop, sock)
        self.guests = []
        self.unwelcome = unwelcome

    def handle_accept(self, sock, address):
        if sock in self.unwelcome:
            raise ValueError('you again')
        self.guests.append(sock)


def ring(loop, door):
    """One turn in which the listening socket is readable."""
    loop.runtime.poller.ready.append([(door.fd, READ)])
    loop.turn(None)


def test_acceptor_takes_all_who_wait(virtual_loop, pair):
    guests = [Guest(), Guest()]
    door = Door(virtual_loop, Listener(pair[0], guests))
    door.open()
    ring(virtual_loop, door)
    assert door.guests == guests


def test_acceptor_takes_a_limited_number_per_turn(virtual_loop, pair):
    door = Door(virtual_loop, Listener(pair[0], [Guest() for _ in range(100)]))
    door.open()
    ring(virtual_loop, door)
    assert len(door.guests) == Acceptor.PER_TURN
    ring(virtual_loop, door)
    assert len(door.guests) == 100


@pytest.mark.parametrize(
    'number', [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPROTO])
def test_acceptor_pauses_after_an_error_and_goes_on(virtual_loop, pair, number, caplog):
    """N5: too many open files must neither stop the acceptor nor keep the processor busy."""
    guest = Guest()
    door = Door(virtual_loop, Listener(pair[0], [OSError(number, os.strerror(number)), guest]))
    door.open()
    ring(virtual_loop, door)
    assert door.guests == []
    assert virtual_loop.poller._masks.get(door.fd) is None  # it is not polled meanwhile
    assert os.strerror(number) in caplog.text
    virtual_loop.turn(None)
    assert virtual_loop.runtime.poller.waits[-1] == Acceptor.PAUSE_S
    ring(virtual_loop, door)
    assert door.guests == [guest]


def test_connection_that_went_away_before_it_was_accepted_is_not_an_error(virtual_loop, pair, caplog):
    """N5."""
    guest = Guest()
    door = Door(virtual_loop, Listener(pair[0], [ConnectionAbortedError(), guest]))
    door.open()
    ring(virtual_loop, door)
    ring(virtual_loop, door)
    assert door.guests == [guest]
    assert not caplog.records


def test_guest_that_cannot_be_set_up_is_closed_and_the_next_is_welcome(virtual_loop, pair, caplog):
    """N5."""
    broken, unwelcome, good = Guest(OSError('gone')), Guest(), Guest()
    door = Door(virtual_loop, Listener(pair[0], [broken, unwelcome, good]), unwelcome=[unwelcome])
    door.open()
    ring(virtual_loop, door)
    assert door.guests == [good]
    assert (broken.closed, unwelcome.closed, good.closed) == (True, True, False)
    assert [record.getMessage() for record in caplog.records] == [
        f"<Door fd {door.fd}> could not set up a connection from 'somewhere'"] * 2


def test_error_that_is_not_of_the_system_does_not_stop_the_acceptor(virtual_loop, pair, caplog):
    """N5."""
    guest = Guest()
    door = Door(virtual_loop, Listener(pair[0], [ValueError('what?'), guest]))
    door.open()
    ring(virtual_loop, door)
    ring(virtual_loop, door)
    assert door.guests == [guest]
    assert 'goes on after an error' in caplog.text


def test_acceptor_closed_during_its_pause_stays_closed(virtual_loop, pair):
    door = Door(virtual_loop, Listener(pair[0], [OSError(errno.EMFILE, 'full'), Guest()]))
    door.open()
    ring(virtual_loop, door)
    door.close()
    virtual_loop.turn(None)
    assert len(virtual_loop) == 0
    assert door.guests == []


def test_acceptor_on_a_real_socket(loop):
    sock = REAL.listen(Endpoint(AF_INET, ('127.0.0.1', 0)))
    door = Door(loop, sock)
    door.open()
    with socket.create_connection(sock.getsockname()) as caller:
        loop.turn(None)
        guest, = door.guests
        assert guest.getpeername() == caller.getsockname()
        assert not guest.getblocking()
        guest.close()


FULL = '''
import errno, logging, resource, socket
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Acceptor, Dispatcher
from zeo_clone.loop.runtime import AF_INET, REAL, Endpoint

class Door(Acceptor):
    PAUSE_S = 0.01
    guests = []
    def handle_accept(self, sock, address):
        self.guests.append(sock)

logging.disable(logging.CRITICAL)
loop = Loop()
door = Door(loop, REAL.listen(Endpoint(AF_INET, ('127.0.0.1', 0))))
door.open()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
caller = socket.create_connection(door.socket.getsockname())
hoard = []
try:
    while True:
        hoard.append(open('/dev/null'))
except OSError as error:
    assert error.errno == errno.EMFILE
loop.turn(None)
assert not door.guests and len(loop) == 1
for file in hoard:
    file.close()
while not door.guests:
    loop.turn(None)
caller.sendall(b'hello')
assert door.guests[0].recv(5) == b'hello' if REAL.wait(door.guests[0].fileno(), True, False, None) else 0
door.guests[0].close()
caller.close()
loop.close()
print('served')
'''


def test_acceptor_serves_again_when_descriptors_are_free_again():
    """N5, with a real limit of the process."""
    done = subprocess.run([sys.executable, '-W', 'error', '-c', FULL], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ('served\n', '')
