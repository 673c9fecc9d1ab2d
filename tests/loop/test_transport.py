from __future__ import annotations

import contextlib
import platform
import socket
import subprocess
import sys
import textwrap

import pytest

from zeo_clone.loop.runtime import REAL
from zeo_clone.loop.transport import (
    BULK_READ_SIZE,
    BYTES_PER_TURN,
    FULL_READ_SIZE,
    JOIN_SIZE,
    LARGE_PIECE,
    READ_SIZE,
    Transport,
)

SMALL_BUFFER = 8 * 1024


class Stub:
    """A socket that takes `room` bytes altogether, or raises `error`; `pieces` is what it took."""

    def __init__(self, room=0):
        self.room = room
        self.error = None
        self.pieces = []
        self.offers = []  # lengths of what it was offered
        self.waiting = 0  # bytes to be received

    def fileno(self):
        return 99

    def send(self, data):
        self.offers.append(len(data))
        if self.error is not None:
            raise self.error
        count = min(self.room, len(data))
        if count == 0 and data:
            raise BlockingIOError
        self.room -= count
        self.pieces.append(bytes(data[:count]))
        return count

    def recv(self, size):
        count = min(self.waiting, size)
        self.waiting -= count
        return bytes(count)

    @property
    def taken(self):
        return b''.join(self.pieces)


@pytest.fixture
def narrow():
    """A transport over a real socket with a small buffer, and the socket at the other end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        ours.setblocking(False)
        theirs.setblocking(False)
        yield Transport(ours, REAL), theirs


def swallow(sock):
    """All that has arrived at `sock`."""
    data = b''
    with contextlib.suppress(BlockingIOError):
        while True:
            data += sock.recv(READ_SIZE)
    return data


def test_what_the_socket_takes_is_sent_at_once_and_not_queued():
    sock = Stub(room=100)
    transport = Transport(sock, REAL)
    transport.send(b'hello')
    assert sock.pieces == [b'hello']
    assert (transport.queued, transport.sent) == (0, 5)


def test_what_the_socket_does_not_take_is_queued():
    sock = Stub(room=3)
    transport = Transport(sock, REAL)
    transport.send(b'hello')
    assert sock.taken == b'hel'
    assert (transport.queued, transport.sent) == (2, 3)
    assert not transport.flush()
    sock.room = 100
    assert transport.flush()
    assert sock.taken == b'hello'
    assert (transport.queued, transport.sent) == (0, 5)


def test_nothing_overtakes_what_is_queued():
    sock = Stub(room=1)
    transport = Transport(sock, REAL)
    transport.send(b'abc')
    sock.room = 100
    transport.send(b'def')
    assert sock.taken == b'a'
    transport.write(b'ghi')
    assert transport.queued == 8
    assert transport.flush()
    assert sock.taken == b'abcdefghi'


def test_written_pieces_leave_in_one_system_call():
    sock = Stub(room=100)
    transport = Transport(sock, REAL)
    for letter in (b'a', b'bc', b'', b'd'):
        transport.write(letter)
    assert sock.offers == []
    assert transport.flush()
    assert sock.pieces == [b'abcd']


def test_pieces_are_joined_up_to_a_limit_and_large_ones_are_not_copied():
    sock = Stub(room=1 << 30)
    transport = Transport(sock, REAL)
    part = JOIN_SIZE // 8
    for size in (*[part] * 8, 1, LARGE_PIECE - 1, LARGE_PIECE, LARGE_PIECE, 1, 1):
        transport.write(bytes(size))
    assert transport.flush()
    assert sock.offers == [JOIN_SIZE, LARGE_PIECE, LARGE_PIECE, LARGE_PIECE, 2]


def test_turn_of_one_socket_ends_after_its_share_of_bytes():
    sock = Stub(room=1 << 30)
    transport = Transport(sock, REAL)
    for _ in range(10):
        transport.write(bytes(1 << 20))
    assert not transport.flush()
    assert len(sock.taken) == BYTES_PER_TURN
    assert transport.queued == (10 << 20) - BYTES_PER_TURN


@pytest.mark.parametrize('room', [0, 1, 5])
def test_error_while_flushing_keeps_the_queue(room):
    sock = Stub(room=room)
    transport = Transport(sock, REAL)
    transport.send(b'abc')
    transport.write(b'def')
    sock.error = ConnectionResetError('gone')
    left = transport.queued
    with pytest.raises(ConnectionResetError):
        transport.flush()
    assert transport.queued == left
    sock.error, sock.room = None, 100
    assert transport.flush()
    assert sock.taken == b'abcdef'


def test_error_in_the_first_write_reaches_the_caller():
    sock = Stub()
    sock.error = BrokenPipeError('gone')
    transport = Transport(sock, REAL)
    with pytest.raises(BrokenPipeError):
        transport.send(b'abc')
    assert transport.queued == 0


@pytest.mark.parametrize('size', [1, SMALL_BUFFER, 300_000])
def test_all_bytes_arrive_in_order_through_a_narrow_socket(narrow, size):
    transport, theirs = narrow
    sent = [bytes([number]) * size for number in range(20)]
    arrived = b''
    for data in sent:
        transport.send(data)
        arrived += swallow(theirs)
    while transport.queued:
        transport.flush()
        arrived += swallow(theirs)
    assert arrived + swallow(theirs) == b''.join(sent)
    assert transport.sent == 20 * size


def test_flush_into_a_full_socket_changes_nothing(narrow):
    transport, theirs = narrow
    transport.send(bytes(1 << 20))
    queued = transport.queued
    assert 0 < queued < 1 << 20
    assert not transport.flush()
    assert transport.queued == queued


def test_receive_tells_nothing_yet_from_the_end(narrow):
    transport, theirs = narrow
    assert transport.receive() is None
    theirs.send(b'hello')
    assert transport.receive() == b'hello'
    assert transport.received == 5
    theirs.close()
    assert transport.receive() == b''


def test_receive_takes_a_limited_piece_and_a_larger_one_while_more_waits():
    stub = Stub()
    transport = Transport(stub, REAL)
    for sizes in [READ_SIZE, 1], [READ_SIZE, FULL_READ_SIZE, 1]:
        stub.waiting = sum(sizes)
        assert [len(transport.receive()) for _ in sizes] == sizes
    stub.waiting = BULK_READ_SIZE + 1
    assert len(transport.receive(bulk=True)) == BULK_READ_SIZE


def test_error_while_receiving_reaches_the_caller(narrow):
    transport, _ = narrow
    transport.socket.close()
    with pytest.raises(OSError, match='Bad file descriptor'):
        transport.receive()


def test_shutdown_ends_the_stream_both_ways_after_what_has_arrived(narrow):
    transport, theirs = narrow
    theirs.send(b'last words')
    transport.shutdown()
    assert transport.receive() == b'last words'
    assert transport.receive() == b''
    assert theirs.recv(1) == b''
    with pytest.raises(BrokenPipeError):
        transport.send(b'x')


def test_shutdown_of_what_is_closed_is_no_error(narrow):
    transport, theirs = narrow
    theirs.close()
    transport.shutdown()
    transport.socket.close()
    transport.shutdown()
    assert transport.socket.fileno() == -1


def test_repr_shows_what_waits():
    transport = Transport(Stub(), REAL)
    transport.write(b'abc')
    transport.write(b'de')
    assert repr(transport) == '<Transport fd 99, 5 bytes queued>'
    assert (transport.pieces, transport.established) == (2, True)
    transport.forget()
    assert (transport.pieces, transport.flush(), transport.socket.pieces) == (0, True, [])


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='of the C library of GNU')
def test_memory_of_pieces_that_were_read_is_used_again():
    """B9: not given back to the system, and taken from it page by page, for each piece of a large blob."""
    script = textwrap.dedent('''
        import resource
        from zeo_clone.loop.transport import BULK_READ_SIZE

        def faults():
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

        def pieces():
            return [b'x' * BULK_READ_SIZE for _ in range(3)]

        pieces()
        before = faults()
        for _ in range(1000):
            pieces()
        print(faults() - before)
    ''')
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000
