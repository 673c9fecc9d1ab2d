"""The server's memory stays flat, whatever a client sends or asks for.  On sizes that keep the suite fast."""
from __future__ import annotations

import tracemalloc

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from zeo_clone.server.clients import downloads
from zeo_clone.server.commits import operations

MB = 1 << 20


@pytest.fixture
def client(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    desk = Desk({'1': storage})
    yield desk.connect()
    desk.close()
    storage.close()


class Peak:
    """The memory that was taken while the block ran, at its highest."""

    def __enter__(self):
        tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        return self

    def __exit__(self, *_):
        self.bytes = tracemalloc.get_traced_memory()[1] - self._before
        tracemalloc.stop()


def test_a_large_transaction_waits_in_a_file(client):
    """L7: 40 MB of records."""
    client.begin()
    with Peak() as peak:
        for number in range(400):
            client.store(p64(number), bytes(100_000))
        client.call('vote', 7)
        client.call('tpc_finish', 7)
    assert peak.bytes < 4 * operations.SPOOL_SIZE


def test_a_large_blob_goes_up_and_down_in_pieces(client):
    """B9: 40 MB."""
    client.begin()
    with Peak() as peak:
        client.oneway('storeBlobStart')
        for _ in range(40 * MB // downloads.BLOB_CHUNK):
            client.oneway('storeBlobChunk', bytes(downloads.BLOB_CHUNK))
        client.oneway('storeBlobEnd', p64(1), z64, b'cZODB.blob\nBlob\n.N.', 7)
        client.call('vote', 7)
        tid = client.call('tpc_finish', 7)
        reply = client.start('sendBlob', p64(1), tid)
        while not client.has_reply(reply):
            client.take_notices()
            client.session.handle_room()
    assert peak.bytes < 5 * downloads.PIECE
