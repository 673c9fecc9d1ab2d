"""C16: one-way calls on a connection that ends, over each kind of connection, at each moment.

What a one-way call may do is return, because nobody can know yet, or raise `ClientDisconnected`; the
transaction as a whole is committed or raises that.
"""
from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from tests.support import inside
from zeo_clone.client import search
from zeo_clone.Exceptions import ClientDisconnected

pytestmark = [pytest.mark.long, pytest.mark.once]

KINDS = ['tcp', 'unix', 'tls', 'unix with tls']
#: The bytes of a transaction are cut at each place, or where TLS makes it long, in steps of so many.
STEPS = {'tcp': 2, 'unix': 2, 'tls': 5, 'unix with tls': 5}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def options(kind, contexts):
    """What server and client are told of TLS."""
    if 'tls' not in kind:
        return {}, {}
    return {'ssl': contexts.server()}, {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost'}


@pytest.fixture
def address(kind, tmp_path):
    return str(tmp_path / 'socket') if 'unix' in kind else ('127.0.0.1', 0)


def verbs(storage, transaction, tmp_path):
    """Each way to send a one-way call of a transaction, by name."""
    def blob():
        path = tmp_path / 'blob'
        path.write_bytes(b'x' * 100)
        storage.storeBlob(p64(1), z64, b'data', str(path), '', transaction)

    return {
        'store': lambda: storage.store(p64(1), z64, b'data', '', transaction),
        'large store': lambda: storage.store(p64(1), z64, b'x' * 200_000, '', transaction),
        'check': lambda: storage.checkCurrentSerialInTransaction(p64(1), z64, transaction),
        'restore': lambda: storage.restore(p64(1), p64(1), b'data', '', None, transaction),
        'delete': lambda: storage.deleteObject(p64(1), p64(1), transaction),
        'undo': lambda: storage.undo(p64(1), transaction),
        'blob': blob,
    }


VERBS = ['store', 'large store', 'check', 'restore', 'delete', 'undo', 'blob']


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))


@pytest.mark.parametrize('verb', VERBS)
@pytest.mark.parametrize('end', ['it has hung up', 'it was reset'])
def test_a_one_way_call_when_the_reader_has_just_met_the_end(
        address, options, end, verb, new_server, client, tmp_path):
    """C16: the bytes say that it has ended, and nobody was told yet."""
    server = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))},
                        addr=address, **options[0])
    storage = client(server.addr, io_thread=False, blob_dir=str(tmp_path / 'cache'), wait_timeout=20,
                     **options[1])
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    channel = inside.link(storage).channel
    session, = inside.sessions(server)

    def hang_up():
        if end == 'it was reset':
            reset(session.channel.socket)
        session.disconnect('test')

    server.call_in_loop(hang_up)
    with contextlib.suppress(ConnectionResetError):
        while channel.runtime.wait(channel.fd, True, False, 20) and channel.transport.receive() != b'':
            pass
    call = verbs(storage, transaction, tmp_path)[verb]
    with contextlib.suppress(ClientDisconnected):
        call()
    with pytest.raises(ClientDisconnected):
        storage.tpc_vote(transaction)
    storage.tpc_abort(transaction)
    storage.ping()


class Cutter:
    """Hands bytes on between one client after the other and a server, and cuts after some."""

    def __init__(self, target, address):
        self._target = target
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self._family = family
        self._listener = socket.socket(family)
        self._listener.bind(address)
        self._listener.listen()
        self.address = self._listener.getsockname()
        self._left = None  # bytes upwards until the cut
        self.seen = 0  # bytes upwards
        self._hard = False
        self._pair = ()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut_after(self, count, hard):
        self._left, self._hard = count, hard

    def _accept(self):
        while True:
            try:
                down, _ = self._listener.accept()
            except OSError:
                return
            up = socket.socket(self._family)
            up.connect(self._target)
            if self._family == socket.AF_INET:
                for sock in down, up:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pair = down, up
            for source, target, counted in (down, up, True), (up, down, False):
                thread = threading.Thread(target=self._hand_on, args=(source, target, counted))
                self._threads.append(thread)
                thread.start()

    def _hand_on(self, source, target, counted):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    self.seen += len(data)
                    if self._left is not None:
                        data, rest = data[:self._left], data[self._left:]
                        self._left -= len(data)
                        target.sendall(data)
                        if rest or not self._left:
                            self._left = None
                            break
                        continue
                target.sendall(data)
        self._end(source, target)

    def _end(self, *pair):
        for sock in pair:
            if self._hard:
                with contextlib.suppress(OSError):
                    reset(sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for sock in pair:
            sock.close()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._end(*self._pair)
        for thread in self._threads:
            thread.join()


@pytest.fixture
def cutter(kind, tmp_path):
    made = []

    def make(target):
        made.append(Cutter(target, str(tmp_path / 'cut') if 'unix' in kind else ('127.0.0.1', 0)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def commit(storage, number, current=None):
    """A transaction of several one-way calls, for which object 0 must be of `current`.  It is over then."""
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    try:
        for n in range(4):
            storage.store(p64(10 * number + n), z64, b'data' * 5, '', transaction)
        if current is not None:
            storage.checkCurrentSerialInTransaction(p64(0), current, transaction)
        storage.tpc_vote(transaction)
    except BaseException:
        storage.tpc_abort(transaction)
        raise
    return storage.tpc_finish(transaction)


@pytest.mark.parametrize('hard', [False, True], ids=['hung up', 'reset'])
def test_a_connection_that_ends_after_any_byte_of_a_transaction(
        kind, address, options, hard, new_server, client, cutter, monkeypatch):
    """C16, C11: it is committed, or `ClientDisconnected` is raised and nothing is; the next one succeeds."""
    monkeypatch.setattr(search, 'FIRST_PAUSE_S', 0.001)
    server = new_server({'1': MappingStorage()}, addr=address, **options[0])
    relay = cutter(server.addr)
    storage = client(relay.address, wait_timeout=20, **options[1])
    reader = client(server.addr, wait_timeout=20, cache_size=0, **options[1])
    first = commit(storage, 0)
    before = relay.seen
    commit(storage, 1, first)
    length = relay.seen - before
    for number, cut in enumerate(range(1, length + 1, STEPS[kind]), 2):
        storage.ping()
        relay.cut_after(cut, hard)
        try:
            tid = commit(storage, number, first)
        except ClientDisconnected:
            tid = None
        reader.ping()
        try:
            data, serial, _ = reader.loadBefore(p64(10 * number), maxtid)
        except KeyError:
            data = serial = None
        assert (data, serial) == ((b'data' * 5, tid) if tid else (None, None)), cut
    relay.cut_after(None, False)
    assert commit(storage, 0x1000, first)
