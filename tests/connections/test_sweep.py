"""N14, C16: the connection breaks at every frame of a commit, in both directions, over plain TCP and TLS.

After each break: whatever was acknowledged is there, what was not is whole or absent, the lock is free, and
the client commits again by itself.
"""
from __future__ import annotations

import os

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from tests.connections.blackhole import Wire
from tests.support import inside
from tests.support.proxy import AFTER, BEFORE, DOWN, INSIDE, UP, Proxy
from zeo_clone.Exceptions import ClientDisconnected

OIDS = [p64(1), p64(2)]

#: The frames of a commit of two objects: what they contain, and whether the commit can have happened.
STEPS = [
    (UP, b'tpc_begin'), (UP, b'storea'), (UP, b'vote'), (DOWN, b'.reply'), (UP, b'tpc_finish'),
    (DOWN, b'length'),
]


class Ledger:
    """Commits the same value to two objects, and knows what must be there."""

    def __init__(self, storage):
        self.storage = storage
        self.serial = z64
        self.value = None
        self.count = 0

    def attempt(self):
        """One commit; True if it was acknowledged."""
        self.count += 1
        value = b'%d' % self.count
        meta = TransactionMetaData()
        try:
            self.storage.tpc_begin(meta)
            for oid in OIDS:
                self.storage.store(oid, self.serial, value, '', meta)
            self.storage.tpc_vote(meta)
            tid = self.storage.tpc_finish(meta)
        except ClientDisconnected:
            self.storage.tpc_abort(meta)
            return False
        self.serial, self.value = tid, value
        return True

    def check(self, served):
        """All that was acknowledged, and nothing else, in full."""
        for oid in OIDS:
            try:
                data, tid, _ = served.loadBefore(oid, maxtid)
            except POSKeyError:
                data, tid = None, z64
            assert (data, tid) == (self.value, self.serial)


@pytest.mark.parametrize('where', [BEFORE, INSIDE, AFTER])
@pytest.mark.parametrize('direction, content', STEPS)
def test_a_commit_is_cut_at_each_frame(server, client, direction, content, where):
    """N14, C16, L10."""
    with Proxy(server.addr) as proxy:
        storage = client(proxy.address)
        ledger = Ledger(storage)
        assert ledger.attempt()
        for _ in range(2):
            cuts, link = proxy.cuts_made, inside.link(storage)
            proxy.cut(direction, content, where)
            ledger.attempt()
            link.channel.buried.wait(20)  # with AFTER the reply may have been faster than the cut
            assert proxy.cuts_made == cuts + 1
            ledger.check(server.storages['1'])
            assert ledger.attempt()
            ledger.check(server.storages['1'])
        status = server.server_status('1')
        assert (status['waiting'], status['lock_time'], status['active_txns']) == (0, None, 0)


class ByteWire(Wire):
    """Cuts its connection when so many bytes have gone to the server or to the client."""

    def __init__(self, target):
        super().__init__(target)
        self.budget = {'up': None, 'down': None}  # under self.changed
        self.cuts = 0

    def _copy(self, source, sink):
        direction = 'up' if source.getsockname() == self.address else 'down'
        try:
            while data := source.recv(65536):
                with self.changed:
                    budget = self.budget[direction]
                    if budget is not None:
                        self.budget[direction] = budget - len(data)
                if budget is not None and budget < len(data):
                    with self.changed:
                        self.budget[direction] = None
                        self.cuts += 1
                    sink.sendall(data[:budget])
                    break
                sink.sendall(data)
        except OSError:
            pass
        for sock in (source, sink):
            try:
                sock.shutdown(2)
            except OSError:  # noqa: PERF203
                pass


HEAVY = bool(os.environ.get('ZEO_CLONE_HEAVY'))


@pytest.mark.parametrize('direction, most', [('up', 900), ('down', 420)])
def test_tls_is_cut_at_each_byte(new_server, client, contexts, direction, most):
    """N14, C16 below TLS, where frames cannot be seen: after the n-th byte of a commit, for many n."""
    server = new_server(ssl=contexts.server())
    wire = ByteWire(server.addr)
    try:
        storage = client(wire.address, ssl=contexts.client(), ssl_server_hostname='localhost')
        ledger = Ledger(storage)
        assert ledger.attempt()
        outcomes = set()
        for budget in range(0, most, 1 if HEAVY else 60):
            cuts, link = wire.cuts, inside.manager(storage).link(20)
            with wire.changed:
                wire.budget[direction] = budget
            outcomes.add(ledger.attempt())
            if wire.cuts > cuts:
                link.channel.buried.wait(20)
            with wire.changed:
                wire.budget[direction] = None
            ledger.check(server.storages['1'])
            assert ledger.attempt()
        assert False in outcomes and True in outcomes
    finally:
        wire.close()


def test_blobs_and_large_commits_are_cut(tmp_path, new_server, client):
    """N14, B2: in the middle of many frames; nothing is left in the temporary directories."""
    served = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    server = new_server({'1': served})
    with Proxy(server.addr) as proxy:
        storage = client(proxy.address, blob_dir=str(tmp_path / 'cache'))
        for content in (b'storeBlobStart', b'storeBlobChunk', b'storeBlobEnd', b'vote', b'tpc_finish'):
            path = tmp_path / 'upload'
            path.write_bytes(b'x' * 200_000)
            proxy.cut(UP, content, INSIDE)
            meta = TransactionMetaData()
            with pytest.raises(ClientDisconnected):
                storage.tpc_begin(meta)
                storage.storeBlob(p64(5), z64, b'record', str(path), '', meta)
                storage.tpc_vote(meta)
                storage.tpc_finish(meta)
            storage.tpc_abort(meta)
            storage.ping()
            assert os.listdir(storage.temporaryDirectory()) == []
            assert [name for name in os.listdir(served.temporaryDirectory()) if name != '.lock'] == []
        assert proxy.cuts_made == 5
