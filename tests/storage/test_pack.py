"""Packing: everybody goes on meanwhile, old blobs go, memory stays."""
from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, z64

from tests.storage.helpers import commit, store, store_blob
from tests.support.memory import resident_bytes

MB = 1 << 20
NO_REFERENCES = b'cpersistent.mapping\nPersistentMapping\n.N.'


class PackWaits(FileStorage):
    """Its pack does not go on until it is told to."""

    def __init__(self, path):
        super().__init__(path)
        self.packing = threading.Event()
        self.go_on = threading.Event()

    def pack(self, *args, **options):
        self.packing.set()
        assert self.go_on.wait(30)
        super().pack(*args, **options)


@pytest.mark.parametrize('wait', [True, False])
def test_loads_and_commits_go_on_while_packing(new_server, client, in_thread, tmp_path, wait):
    """L5: also those of the client that packs; with `wait` false it returns at once."""
    served = PackWaits(str(tmp_path / 'Data.fs'))
    server = new_server({'1': served})
    packer, other = client(server.addr), client(server.addr)
    oid = packer.new_oid()
    serial = commit(packer, store(z64, NO_REFERENCES), store(oid, NO_REFERENCES))
    run = in_thread(packer.pack, time.time(), None, wait)
    try:
        assert served.packing.wait(30)
        if not wait:
            run.result()
        for storage in (packer, other) * 5:
            serial = commit(storage, store(oid, NO_REFERENCES, serial))
            assert other.loadSerial(oid, serial) == NO_REFERENCES
        assert run.is_running() is wait
    finally:
        served.go_on.set()
    run.result()
    assert other.load(oid) == (NO_REFERENCES, serial)


def test_memory_after_ten_packs_is_as_before(blob_server, client):
    """L5: 4 MB of records, packed away again and again."""
    storage = client(blob_server.address)
    serials = dict.fromkeys([z64, *(p64(number) for number in range(1, 41))], z64)

    def fill_and_pack():
        for _ in range(2):
            tid = commit(storage, *(store(oid, NO_REFERENCES + bytes(50_000), serial)
                                    for oid, serial in serials.items()))
            serials.update(dict.fromkeys(serials, tid))
        storage.pack(time.time() + 1)
        serials.update({oid: tid if oid == z64 else z64 for oid in serials})  # the others were garbage
        return resident_bytes(blob_server.pid)

    before = [fill_and_pack() for _ in range(3)][-1]
    after = [fill_and_pack() for _ in range(10)][-1]
    assert after - before < 8 * MB


def test_packing_removes_the_files_of_old_blobs(blob_server, client, tmp_path):
    """What ``blob_packing.txt`` of ZODB shows, seen from outside: of old revisions and of garbage."""
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    blobs = {name: storage.new_oid() for name in ('kept', 'garbage')}
    commit(storage, store(z64, referring_to(blobs['kept'])))
    tids = [z64]
    for number in range(3):
        tids.append(commit(storage, *(store_blob(oid, tmp_path / name, b'%d' % number, tids[-1])
                                      for name, oid in blobs.items())))
    assert len(blob_files(tmp_path)) == 6
    storage.pack(time.time() + 1)
    left = blob_files(tmp_path)
    assert [path.read_bytes() for path in left] == [b'2']
    fresh = client(blob_server.address, blob_dir=str(tmp_path / 'fresh'))
    with fresh.openCommittedBlobFile(blobs['kept'], tids[-1]) as file:
        assert file.read() == b'2'
    for oid, tid in [(blobs['kept'], tids[1]), (blobs['garbage'], tids[-1])]:
        with pytest.raises(POSKeyError):
            fresh.loadBlob(oid, tid)


def referring_to(oid):
    """A record with one reference."""
    return b'cpersistent.mapping\nPersistentMapping\n.(U\x08' + oid + b'cZODB.blob\nBlob\ntQ.'


def blob_files(tmp_path):
    return list(Path(tmp_path, 'blobs').glob('0x*/**/*.blob'))
