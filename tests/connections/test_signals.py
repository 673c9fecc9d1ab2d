"""Signals: KeyboardInterrupt inside a call that waits leaves the storage usable; SIGTERM ends a server."""
from __future__ import annotations

import os
import signal
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, z64

from tests.client.fake_server import FakeServer, p64
from tests.client.test_blobs import DATA, TID, send_blob
from tests.support import inside
from tests.support.runzeo_process import Runzeo
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import Runtime

OID = p64(7)


@pytest.fixture
def fake():
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture(params=[True, False], ids=['io_thread', 'no io_thread'])
def storage(fake, request, tmp_path):
    storage = ClientStorage(fake.address, wait_timeout=10, io_thread=request.param,
                            blob_dir=str(tmp_path / 'blobs'))
    yield storage
    storage.close()


class Watching(Runtime):
    """The real one, telling when somebody waits for a socket."""

    def __init__(self):
        self.waits = threading.Event()

    def wait(self, fd, read, write, timeout):
        self.waits.set()
        return super().wait(fd, read, write, timeout)


def interrupted_in(fake, storage, name, call):
    """Make `call`, whose message `name` the server answers only after a KeyboardInterrupt in the wait."""
    answer, release = fake.answers.get(name), threading.Event()
    channel = inside.link(storage).channel
    channel.runtime = watching = Watching()

    def hold(connection, *args):
        assert release.wait(20)
        return answer(connection, *args) if answer is not None else None

    fake.answers[name] = hold
    already = fake.called(name)

    interrupted = threading.Event()

    def once(number, frame):
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def interrupt():
        assert watching.waits.wait(20)
        fake.wait(lambda: fake.called(name) > already)
        while not interrupted.wait(0.02):  # one just before the wait does not end the wait: Python's gap
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    handler = signal.signal(signal.SIGINT, once)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        release.set()
        thread.join()
        signal.signal(signal.SIGINT, handler)
        if answer is None:
            del fake.answers[name]
        else:
            fake.answers[name] = answer


def begin(storage, data):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, z64, data, '', meta)
    return meta


def commit(storage, data):
    meta = begin(storage, data)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def test_in_a_question(fake, storage):
    interrupted_in(fake, storage, 'ping', storage.ping)
    storage.ping()
    assert len(fake.registered) == 1  # over the same connection


def test_in_a_download(fake, storage):
    """What the server still sends is nobody's; then comes the same blob for whoever wants it next."""
    fake.answers['sendBlob'] = send_blob
    interrupted_in(fake, storage, 'sendBlob', lambda: storage.loadBlob(OID, TID))
    with open(storage.loadBlob(OID, TID), 'rb') as file:
        assert file.read() == DATA
    assert len(fake.registered) == 1


def test_in_the_vote(fake, storage):
    """The transaction can be aborted, the next one committed."""
    meta = begin(storage, b'interrupted')
    interrupted_in(fake, storage, 'vote', lambda: storage.tpc_vote(meta))
    storage.tpc_abort(meta)
    tid = commit(storage, b'next')
    assert storage.lastTransaction() == tid
    assert storage.loadBefore(OID, maxtid)[:2] == (b'next', tid)


def test_in_the_finish(fake, storage):
    """It was committed meanwhile: its effects take place when the reply comes, before any later one's."""
    meta = begin(storage, b'interrupted')
    storage.tpc_vote(meta)
    told = []
    interrupted_in(fake, storage, 'tpc_finish', lambda: storage.tpc_finish(meta, told.append))
    storage.tpc_abort(meta)  # nothing left to abort
    storage.ping()
    assert told == [p64(1)]
    assert storage.lastTransaction() == p64(1)
    assert storage.loadBefore(OID, maxtid)[:2] == (b'interrupted', p64(1))
    assert commit(storage, b'next') == p64(2)


def test_in_sending(fake, storage):
    """Nobody knows how much of the message is on its way: the connection is given up, the next one used."""
    transport = inside.link(storage).channel.transport
    send = transport.send

    def interrupt(data):
        send(data)
        raise KeyboardInterrupt

    transport.send = interrupt
    with pytest.raises(KeyboardInterrupt):
        storage.ping()
    storage.ping()
    assert len(fake.registered) == 2
    commit(storage, b'next')


@pytest.mark.parametrize('step', ['begun', 'voted', 'finished'])
def test_a_server_stops_with_a_commit_in_flight(tmp_path, step):
    """T3: SIGTERM ends it with 0; the transaction is aborted cleanly, or it is there after the restart."""
    path = str(tmp_path / 'Data.fs')
    with Runzeo('-a', '127.0.0.1:0', '-f', path) as server:
        server.ready()
        storage = ClientStorage(server.address, wait_timeout=20)
        meta = begin(storage, b'in flight')
        if step != 'begun':
            storage.tpc_vote(meta)
        if step == 'finished':
            tid = storage.tpc_finish(meta)
        assert server.stop(signal.SIGTERM) == 0
        address = server.address
    with Runzeo('-a', f'127.0.0.1:{address[1]}', '-f', path) as server:
        server.ready()
        if step == 'finished':
            assert storage.loadBefore(OID, maxtid)[:2] == (b'in flight', tid)
        else:
            with pytest.raises(ClientDisconnected):
                if step == 'begun':
                    storage.tpc_vote(meta)
                storage.tpc_finish(meta)
            storage.tpc_abort(meta)
            with pytest.raises(POSKeyError):
                storage.loadBefore(OID, maxtid)
            commit(storage, b'again')
        storage.close()
        assert server.stop(signal.SIGTERM) == 0
