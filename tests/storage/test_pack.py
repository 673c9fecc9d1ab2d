"""Packing: everybody goes on meanwhile, old blobs go, memory stays."""
from __future__ import annotations

import time
from pathlib import Path

import pytest
from ZODB.POSException import POSKeyError, StorageTransactionError
from ZODB.utils import p64, z64

from tests.storage.helpers import PackWaits, commit, store, store_blob
from tests.support.memory import resident_bytes

MB = 1 << 20
NO_REFERENCES = b'cpersistent.mapping\nPersistentMapping\n.N.'


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


def test_a_storage_is_packed_once_at_a_time(new_server, client, in_thread, tmp_path):
    """L12: a second one is told at once who packs, whoever it is, also if it would not wait for the end."""
    served = PackWaits(str(tmp_path / 'Data.fs'))
    server = new_server({'1': served})
    packer = client(server.addr, client_label='nightly')
    commit(packer, store(z64, NO_REFERENCES))
    run = in_thread(packer.pack)
    try:
        assert served.packing.wait(30)
        for other in (packer, client(server.addr), client(server.addr, read_only=True)):
            for wait in (True, False):
                with pytest.raises(StorageTransactionError, match=r'packing since .*by .*\(nightly\)'):
                    other.pack(wait=wait)
    finally:
        served.go_on.set()
    run.result()
    packer.pack()


def test_storages_are_packed_side_by_side_and_one_that_waits_counts(new_server, client, in_thread, tmp_path):
    """L12: there are two threads for packs; the third storage is "already packing" while it waits for one."""
    storages = {name: PackWaits(str(tmp_path / name)) for name in 'abc'}
    server = new_server(storages)
    packers = [client(server.addr, name) for name in 'abc']
    for packer in packers:
        commit(packer, store(z64, NO_REFERENCES))
    packers[0].pack(wait=False)
    packers[1].pack(wait=False)
    try:
        assert storages['a'].packing.wait(30)
        assert storages['b'].packing.wait(30)
        run = in_thread(packers[2].pack)
        other = client(server.addr, 'c')
        while other.server_status()['packing'] is None:
            pass
        assert not storages['c'].packing.is_set()
        with pytest.raises(StorageTransactionError, match='already packing'):
            other.pack()
    finally:
        for storage in storages.values():
            storage.go_on.set()
    run.result()


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
