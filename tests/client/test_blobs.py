"""Blobs on the client: files, downloads, uploads, clean-up.  With a scripted server."""
from __future__ import annotations

import errno
import os
import threading

import pytest
from ZODB.blob import BlobFile
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IBlobStorage
from ZODB.POSException import ConflictError, POSKeyError, Unsupported

from tests.client.fake_server import p64, z64
from tests.support import inside
from zeo_clone.client.blobdir import BlobCache, SharedBlobs
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import REAL
from zeo_clone.loop.shareddir import locked

OID, TID = p64(7), p64(3)
DATA = bytes(range(256)) * 1000


def send_blob(connection, oid, serial, data=DATA, pieces=3):
    connection.notice('receiveBlobStart', oid, serial)
    size = len(data) // pieces + 1
    for start in range(0, len(data), size):
        connection.notice('receiveBlobChunk', oid, serial, data[start:start + size])
    connection.notice('receiveBlobStop', oid, serial)


@pytest.fixture
def storage(fake, opened, tmp_path):
    fake.answers['sendBlob'] = send_blob
    return opened(blob_dir=str(tmp_path / 'blobs'))


def files_in(directory):
    return sorted(os.path.relpath(os.path.join(where, name), directory)
                  for where, _, names in os.walk(directory) for name in names if name != '.layout')


def a_file(tmp_path, data=DATA, name='source'):
    path = tmp_path / name
    path.write_bytes(data)
    return str(path)


def begin_blob(storage, path):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.storeBlob(OID, z64, b'record', path, '', meta)
    return meta


def read(path):
    with open(path, 'rb') as file:
        return file.read()


def test_a_blob_is_downloaded_once(fake, storage):
    assert IBlobStorage.providedBy(storage)
    path = storage.loadBlob(OID, TID)
    assert read(path) == DATA
    assert storage.loadBlob(OID, TID) == path
    with storage.openCommittedBlobFile(OID, TID) as file:
        assert file.read() == DATA
    assert fake.called('sendBlob') == 1


def test_a_blob_opened_for_an_object_is_its_file(fake, storage):
    class Blob:
        def closed(self, file):
            self.seen = file

    blob = Blob()
    with storage.openCommittedBlobFile(OID, TID, blob) as file:
        assert type(file) is BlobFile
        assert file.read() == DATA
    assert blob.seen is file


def test_processes_download_a_blob_once(fake, opened, storage, tmp_path):
    """B8: who shares a blob directory waits for the download that is under way."""
    other = opened(blob_dir=str(tmp_path / 'blobs'))
    begun, go_on = threading.Event(), threading.Event()

    def slow(connection, oid, serial):
        begun.set()
        assert go_on.wait(20)
        send_blob(connection, oid, serial)

    fake.answers['sendBlob'] = slow
    paths = []
    first = threading.Thread(target=lambda: paths.append(storage.loadBlob(OID, TID)))
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=lambda: paths.append(other.loadBlob(OID, TID)))
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert len(paths) == 2 and len(set(paths)) == 1
    assert fake.called('sendBlob') == 1


def test_a_cut_download_leaves_nothing(fake, storage, tmp_path):
    """B2, B10: a part of a blob never appears under its name, and goes away."""
    def cut(connection, oid, serial):
        connection.notice('receiveBlobStart', oid, serial)
        connection.notice('receiveBlobChunk', oid, serial, b'half')
        fake.answers['sendBlob'] = send_blob
        connection.cut()

    fake.answers['sendBlob'] = cut
    with pytest.raises(ClientDisconnected):
        storage.loadBlob(OID, TID)
    assert files_in(tmp_path / 'blobs') == []
    fake.wait(lambda: len(fake.registered) == 2)
    assert read(storage.loadBlob(OID, TID)) == DATA
    assert len(files_in(tmp_path / 'blobs')) == 1


def test_a_blob_that_the_server_does_not_have(fake, storage, tmp_path):
    fake.answers['sendBlob'] = lambda connection, oid, serial: None
    with pytest.raises(POSKeyError):
        storage.loadBlob(OID, TID)

    def unknown(connection, oid, serial):
        raise POSKeyError(oid)

    fake.answers['sendBlob'] = unknown
    with pytest.raises(POSKeyError):
        storage.loadBlob(OID, TID)
    assert files_in(tmp_path / 'blobs') == []


def test_a_full_disk_fails_the_download_not_the_connection(fake, storage, monkeypatch, tmp_path):
    """L7: and it is said whose disk."""
    class Full:
        closed = False

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self):
            pass

    monkeypatch.setattr(inside.blobs(storage).directory, 'open_part', lambda path: Full())
    with pytest.raises(OSError, match=f'No space left on device: .{tmp_path}/blobs/'):
        storage.loadBlob(OID, TID)
    assert len(fake.registered) == 1
    monkeypatch.undo()
    assert read(storage.loadBlob(OID, TID)) == DATA


def test_chunks_that_nobody_asked_for_drop_the_link(fake, storage):
    """S1 and the other side: the server's blobs are taken only if they were asked for."""
    fake.client.notice('receiveBlobChunk', p64(99), TID, b'evil')
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()


def test_an_upload_goes_in_chunks_and_is_kept(fake, storage, tmp_path):
    """protocol.md: Start, chunks of at most 59,000 bytes, End; afterwards the file is in the cache."""
    source = a_file(tmp_path)
    meta = begin_blob(storage, source)
    assert not os.path.exists(source)
    storage.tpc_vote(meta)
    tid = storage.tpc_finish(meta)
    names = [name for name, _ in fake.calls]
    first = names.index('storeBlobStart')
    count = -(-len(DATA) // 59_000)
    assert names[first:first + count + 2] == ['storeBlobStart', *['storeBlobChunk'] * count, 'storeBlobEnd']
    sent = b''.join(args[0] for name, args in fake.calls if name == 'storeBlobChunk')
    assert sent == DATA
    number = dict(fake.calls)['tpc_begin'][0]
    assert dict(fake.calls)['storeBlobEnd'] == (OID, z64, b'record', number)
    assert read(storage.loadBlob(OID, tid)) == DATA
    assert fake.called('sendBlob') == 0


@pytest.mark.parametrize('end', ['abort', 'conflict', 'disconnect'])
def test_nothing_is_left_of_a_transaction_that_failed(fake, storage, tmp_path, end):
    """B2: after any abort or disconnect the directory is as before, and so are the descriptors."""
    descriptors = len(os.listdir('/proc/self/fd')) if os.path.exists('/proc/self/fd') else 0
    meta = begin_blob(storage, a_file(tmp_path))
    if end == 'conflict':
        def conflict(connection, number):
            raise ConflictError(oid=OID, serials=(p64(2), p64(1)))

        fake.answers['vote'] = conflict
        with pytest.raises(ConflictError):
            storage.tpc_vote(meta)
    elif end == 'disconnect':
        fake.client.cut()
        fake.wait(lambda: len(fake.registered) == 2)
        storage.ping()
        with pytest.raises(ClientDisconnected):
            storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    assert files_in(tmp_path / 'blobs') == []
    if descriptors:
        assert len(os.listdir('/proc/self/fd')) == descriptors


def test_progress_can_be_watched(fake, opened, tmp_path):
    fake.answers['sendBlob'] = send_blob
    seen = []
    storage = opened(blob_dir=str(tmp_path / 'blobs'), blob_progress=lambda *args: seen.append(args))
    meta = begin_blob(storage, a_file(tmp_path))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert seen[-1] == (OID, len(DATA), len(DATA))
    storage.tpc_abort(meta)
    del seen[:]
    storage.loadBlob(OID, TID)
    assert [args[1] for args in seen][-1] == len(DATA)
    assert len(seen) == 3


def test_what_the_progress_of_a_download_raises_is_for_who_wants_the_blob(fake, opened, tmp_path):
    """C17, C16: he gives it up, say; the connection is everybody's and stays."""
    fake.answers['sendBlob'] = send_blob
    errors = [ValueError('enough')]

    def progress(*args):
        if errors:
            raise errors.pop()

    storage = opened(blob_dir=str(tmp_path / 'blobs'), blob_progress=progress)
    with pytest.raises(ValueError, match='enough'):
        storage.loadBlob(OID, TID)
    assert files_in(tmp_path / 'blobs') == []
    assert read(storage.loadBlob(OID, TID)) == DATA
    assert len(fake.registered) == 1


def test_the_cleanup_keeps_the_cache_small(fake, opened, tmp_path):
    """The blobs that were not used for longest go first, down to 90 % of the size."""
    fake.answers['sendBlob'] = lambda connection, oid, serial: send_blob(connection, oid, serial, b'x' * 1000)
    storage = opened(blob_dir=str(tmp_path / 'blobs'), blob_cache_size=10_000)
    inside.blobs(storage).directory.close()
    for number in range(20):
        path = storage.loadBlob(p64(number), TID)
        os.utime(path, (number, number))
        inside.blobs(storage).directory.close()
    left = files_in(tmp_path / 'blobs')
    assert len(left) <= 11
    assert fake.called('sendBlob') == 20
    storage.loadBlob(p64(19), TID)
    assert fake.called('sendBlob') == 20


def test_a_cache_smaller_than_one_blob_works(fake, opened, tmp_path):
    """B6: the clean-up never takes a blob between download and open."""
    fake.answers['sendBlob'] = send_blob
    storage = opened(blob_dir=str(tmp_path / 'blobs'), blob_cache_size=1, blob_cache_size_check=0)

    def read_all(number):
        for serial in range(1, 20):
            with storage.openCommittedBlobFile(p64(number), p64(serial)) as file:
                if file.read() != DATA:
                    wrong.append(serial)

    wrong = []
    threads = [threading.Thread(target=read_all, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_locked_blob_is_not_cleaned_away(tmp_path):
    """B6: a lock file protects what is being downloaded or opened."""
    cache = BlobCache(str(tmp_path), 1, 0, REAL)
    cache.close()
    path = cache.find(OID, TID, lambda part: a_file(tmp_path, name=part))
    cache.close()
    cache._start_cleaning()
    cache.close()
    assert not os.path.exists(path)

    def use(path):
        cache._start_cleaning()
        cache.close()
        return read(path)

    assert cache.use(OID, TID, lambda part: a_file(tmp_path, name=part), use) == DATA


def test_shared_blobs_are_not_transferred(fake, opened, tmp_path):
    """A shared directory: the server gets a base name, readers find the server's file."""
    directory = tmp_path / 'shared'
    storage = opened(blob_dir=str(directory), shared_blob_dir=True)
    meta = begin_blob(storage, a_file(tmp_path))
    storage.tpc_vote(meta)
    (oid, serial, record, name, number), = [args for call, args in fake.calls if call == 'storeBlobShared']
    assert (oid, serial, record) == (OID, z64, b'record')
    assert name == os.path.basename(name)
    helper = inside.blobs(storage).directory.fshelper
    assert read(os.path.join(helper.getPathForOID(OID), name)) == DATA
    os.rename(os.path.join(helper.getPathForOID(OID), name), helper.getBlobFilename(OID, p64(1)))
    tid = storage.tpc_finish(meta)
    assert read(storage.loadBlob(OID, tid)) == DATA
    assert fake.called('storeBlobChunk') == 0


def test_a_directory_that_is_not_shared_is_named(fake, opened, tmp_path):
    """B7: the message says which directory it is and what to check."""
    storage = opened(blob_dir=str(tmp_path / 'mine'), shared_blob_dir=True)
    with pytest.raises(POSKeyError) as caught:
        storage.loadBlob(OID, TID)
    assert f'{tmp_path / "mine"} really the blob directory of the server' in str(caught.value.args)


def test_a_wrong_layout_is_explained(tmp_path):
    """B7: a server's directory is no cache and the reverse; the message names the directory."""
    SharedBlobs(str(tmp_path / 'shared'), REAL)
    with pytest.raises(ValueError, match='needs a directory of its own') as caught:
        BlobCache(str(tmp_path / 'shared'), None, 10, REAL)
    assert str(tmp_path / 'shared') in str(caught.value)


def test_without_a_blob_dir_there_are_no_blobs(fake, opened):
    storage = opened()
    assert not IBlobStorage.providedBy(storage)
    with pytest.raises(Unsupported, match='blob_dir'):
        storage.loadBlob(OID, TID)
    with pytest.raises(ValueError, match='shared_blob_dir is given without blob_dir'):
        ClientStorage(fake.address, shared_blob_dir=True)


def test_a_lock_file_goes_with_its_last_holder(tmp_path):
    path = str(tmp_path / 'x.lock')
    with locked(REAL, path) as mine:
        assert mine
        with locked(REAL, path, wait=False) as also:
            assert not also
    assert not os.path.exists(path)
