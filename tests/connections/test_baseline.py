"""Descriptors, threads, sessions and temporary files return to where they were."""
from __future__ import annotations

import contextlib
import gc
import os
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import z64

from tests.client.fake_server import p64
from tests.support import inside
from tests.support.proxy import INSIDE, UP, Proxy
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected

#: Thousands in the heavy run.
CYCLES = 3000 if os.environ.get('ZEO_CLONE_HEAVY') else 200


def descriptors():
    return len(os.listdir('/proc/self/fd'))


def assert_nothing_more(after, before):
    """Of what is counted there is not more; a server that begins may have had a file open for a moment."""
    assert all(now <= then for now, then in zip(after, before, strict=True)), (after, before)


def begin(storage, number):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(p64(number), z64, b'x' * 100, '', meta)
    return meta


@pytest.fixture
def quiet(new_server, tmp_path):
    """A server, and a function that says what there is besides: after sessions have ended."""
    served = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    server = new_server({'1': served})
    changed = threading.Condition()
    forget = server.forget

    def forget_and_tell(session):
        forget(session)
        with changed:
            changed.notify_all()

    server.forget = forget_and_tell

    def state():
        with changed:
            assert changed.wait_for(lambda: not inside.sessions(server), 20)
        gc.collect()
        return descriptors(), threading.active_count(), len(os.listdir(served.temporaryDirectory()))

    return server, state


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts descriptors in /proc')
def test_connects_aborts_and_closes_leave_nothing(quiet):
    """C16: clients that leave in the middle of a transaction, by close."""
    server, state = quiet
    ClientStorage(server.addr).close()
    before = state()
    for number in range(CYCLES):
        storage = ClientStorage(server.addr)
        meta = begin(storage, number + 1)
        if number % 3:
            storage.tpc_vote(meta)
        if number % 3 == 2:
            storage.tpc_abort(meta)
        storage.close()
    assert_nothing_more(state(), before)
    status = server.server_status('1')
    assert (status['active_txns'], status['waiting'], status['lock_time']) == (0, 0, None)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts descriptors in /proc')
def test_cuts_leave_nothing(quiet):
    """C16: one client that loses its connection again and again."""
    server, state = quiet
    before = state()
    with Proxy(server.addr) as proxy:
        storage = ClientStorage(proxy.address)
        for number in range(CYCLES // 4):
            proxy.cut(UP, b'storea', INSIDE)
            with contextlib.suppress(ClientDisconnected):
                meta = begin(storage, number + 1)
                storage.tpc_vote(meta)
            storage.tpc_abort(meta)
            storage.ping()
        storage.close()
        assert proxy.cuts_made == CYCLES // 4
    assert_nothing_more(state(), before)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='counts descriptors in /proc')
def test_servers_that_are_not_there_leave_nothing(client):
    """Attempts to connect that fail, on all addresses of a name."""
    before = descriptors(), threading.active_count()
    for _ in range(5):
        with pytest.raises(ClientDisconnected):
            ClientStorage([('localhost', 1), ('127.0.0.1', 1), '/nowhere/at/all'], wait_timeout=0.1)
    for thread in threading.enumerate():
        if 'name resolution' in thread.name:
            thread.join(20)
    gc.collect()
    assert_nothing_more((descriptors(), threading.active_count()), before)
