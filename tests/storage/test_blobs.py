"""Blobs between real processes: slow links, conflicts, full disks, names that should not be."""
from __future__ import annotations

import os
import threading
from contextlib import ExitStack, suppress

import pytest
from ZODB.blob import BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IBlobStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import p64, z64
from zope.interface import alsoProvides

from tests.storage.helpers import BLOB_RECORD, channel, commit, store, store_blob
from tests.storage.helpers import no_larger_files as limited
from tests.support import inside
from tests.support.proxy import AFTER, BEFORE, DOWN, INSIDE, UP, Proxy
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.StorageServer import StorageServer

KB = 1000


def content(number, size):
    """Bytes that no other number has, at any place."""
    return (b'%08d' % number) * (size // 8)


def read(storage, oid, tid):
    with storage.openCommittedBlobFile(oid, tid) as file:
        return file.read()


def test_blobs_of_several_clients_on_slow_links_arrive_whole(blob_server, client, in_thread, tmp_path):
    """B1: three clients, two threads each, several large blobs per transaction; down again by three threads
    each."""
    blobs, size = 4, 250 * KB

    def upload(storage, sender):
        operations, oids = [], [storage.new_oid() for _ in range(blobs)]
        for index, oid in enumerate(oids):
            number = 100 * sender + index
            operations.append(store_blob(oid, tmp_path / f'{number}.up', content(number, size)))
            operations.append(store(p64(1000 + number), b'between'))
        tid = commit(storage, *operations)
        return [(oid, tid, 100 * sender + index) for index, oid in enumerate(oids)]

    def download(storage, stored):
        for oid, tid, number in stored:
            assert read(storage, oid, tid) == content(number, size)

    with ExitStack() as stack:
        storages = []
        for number in range(3):
            proxy = stack.enter_context(Proxy(blob_server.address, bytes_per_s=5_000 * KB))
            storages.append(client(proxy.address, blob_dir=str(tmp_path / f'cache-{number}')))
        runs = [in_thread(upload, storages[sender % 3], sender) for sender in range(6)]
        stored = [blob for run in runs for blob in run.result()]
        assert len(stored) == 6 * blobs
        for run in [in_thread(download, storage, stored[part::3]) for storage in storages
                    for part in range(3)]:
            run.result()
        for storage in storages:
            storage.close()


def test_an_upload_does_not_hold_the_commit_lock(blob_server, client, in_thread, tmp_path):
    """B9: others commit while a blob is half way up."""
    with Proxy(blob_server.address) as proxy:
        half_way = threading.Event()
        resume = threading.Event()

        def progress(oid, done, total):
            if done >= total // 2 and not half_way.is_set():
                half_way.set()
                resume.wait(30)

        slow = client(proxy.address, blob_dir=str(tmp_path / 'cache'), blob_progress=progress)
        fast = client(blob_server.address)
        data = content(1, 1000 * KB)
        run = in_thread(commit, slow, store_blob(slow.new_oid(), tmp_path / 'up', data))
        half_way.wait(30)
        proxy.silence()
        oid, serial = fast.new_oid(), z64
        for _ in range(10):
            serial = commit(fast, store(oid, b'meanwhile', serial))
        assert run.is_running()
        proxy.heal()
        resume.set()
        assert run.result() > serial
        slow.close()


def test_a_conflict_with_a_blob_leaves_everybody_able_to_commit(blob_server, client, tmp_path):
    """B3."""
    one, other = (client(blob_server.address, blob_dir=str(tmp_path / name)) for name in 'ab')
    oid = one.new_oid()
    first = commit(one, store_blob(oid, tmp_path / 'first', b'first'))
    second = commit(one, store_blob(oid, tmp_path / 'second', b'second', first))
    with pytest.raises(ConflictError):
        commit(other, store_blob(oid, tmp_path / 'late', b'late', first))
    for storage, text in [(other, b'third'), (one, b'fourth')]:
        second = commit(storage, store_blob(oid, tmp_path / 'next', text, second))
        assert read(one, oid, second) == read(other, oid, second) == text
    assert os.listdir(tmp_path / 'blobs' / 'tmp') == []


def test_no_space_for_a_blob_is_told_before_the_commit(blob_server, client, tmp_path):
    """B4: at the vote, with the directory; and then nothing is left of it, and there is a next time."""
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    oid = storage.new_oid()
    with limited(blob_server, 100 * KB), pytest.raises(OSError, match=str(tmp_path / 'blobs')):
        commit(storage, store_blob(oid, tmp_path / 'up', bytes(1000 * KB)))
    assert os.listdir(tmp_path / 'blobs' / 'tmp') == []
    commit(storage, store_blob(oid, tmp_path / 'up', b'small'))


def test_after_the_vote_no_more_space_is_needed(blob_server, client, tmp_path):
    """B4: `tpc_finish` only renames."""
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    oid, data = storage.new_oid(), bytes(1000 * KB)
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    _, *args = store_blob(oid, tmp_path / 'up', data)
    storage.storeBlob(*args, transaction)
    storage.tpc_vote(transaction)
    with limited(blob_server, (tmp_path / 'Data.fs').stat().st_size):
        tid = storage.tpc_finish(transaction)
    other = client(blob_server.address, blob_dir=str(tmp_path / 'other'))
    assert read(other, oid, tid) == data


@pytest.mark.parametrize('name', ['../../../secret', '/etc/passwd', '', '.', '..', 'a\0b', 'x/y', 'link',
                                  '0x00.blob'])
def test_only_names_that_the_server_could_have_issued_are_taken(blob_server, client, tmp_path, name):
    """B5: refused at the vote, and what the name led to is untouched."""
    secret = tmp_path / 'secret'
    secret.write_text('secret')
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'blobs'), shared_blob_dir=True)
    oid = storage.new_oid()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    directory = inside.blobs(storage).directory.fshelper.getPathForOID(oid, create=True)
    os.symlink(secret, os.path.join(directory, 'link'))
    number = inside.engine(storage).committing.phase.number
    channel(storage).send('storeBlobShared', (oid, z64, BLOB_RECORD, name, number))
    with pytest.raises(ValueError):
        storage.tpc_vote(transaction)
    storage.tpc_abort(transaction)
    assert secret.read_text() == 'secret'
    commit(storage, store_blob(oid, tmp_path / 'up', b'works'))


def test_a_symbolic_link_with_a_good_name_is_refused(blob_server, client, tmp_path):
    """B5."""
    secret = tmp_path / 'secret'
    secret.write_text('secret')
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'blobs'), shared_blob_dir=True)
    oid = storage.new_oid()
    directory = inside.blobs(storage).directory.fshelper.getPathForOID(oid, create=True)
    name = '0x01-1-1.tmp'
    os.symlink(secret, os.path.join(directory, name))
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    number = inside.engine(storage).committing.phase.number
    channel(storage).send('storeBlobShared', (oid, z64, BLOB_RECORD, name, number))
    with pytest.raises(ValueError, match='regular file'):
        storage.tpc_vote(transaction)
    storage.tpc_abort(transaction)
    assert secret.read_text() == 'secret'


def test_shared_blobs_are_committed_without_a_transfer(blob_server, client, tmp_path):
    with Proxy(blob_server.address) as proxy:
        one, other = (client(proxy.address, blob_dir=str(tmp_path / 'blobs'), shared_blob_dir=True)
                      for _ in range(2))
        oid, data = one.new_oid(), bytes(1000 * KB)
        tid = commit(one, store_blob(oid, tmp_path / 'up', data))
        assert read(other, oid, tid) == data
        assert sum(proxy.bytes.values()) < len(data) / 10
        one.close()
        other.close()


def test_a_directory_that_is_not_really_shared_is_refused_and_named(blob_server, client, tmp_path):
    """B7: at the first use, in both directions; the message says which directory and what to check."""
    good = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    oid = good.new_oid()
    tid = commit(good, store_blob(oid, tmp_path / 'up', b'there'))
    wrong = str(tmp_path / 'elsewhere')
    storage = client(blob_server.address, blob_dir=wrong, shared_blob_dir=True)
    with pytest.raises(POSKeyError, match=f'{wrong}.*not shared'):
        storage.loadBlob(oid, tid)
    with pytest.raises(OSError, match=f'{tmp_path / "blobs"}.*shared_blob_dir'):
        commit(storage, store_blob(storage.new_oid(), tmp_path / 'up', b'lost'))
    commit(good, store_blob(oid, tmp_path / 'up', b'goes on', tid))


def test_the_wrong_kind_of_directory_is_explained(blob_server, client, tmp_path):
    """B7."""
    with pytest.raises(ValueError, match='blobs.*cache of a client needs a directory of its own'):
        client(blob_server.address, blob_dir=str(tmp_path / 'blobs'))


def open_files(process):
    return len(os.listdir(f'/proc/{process.pid}/fd'))


@pytest.mark.parametrize('where', [BEFORE, INSIDE, AFTER])
@pytest.mark.parametrize('frame', [b'storeBlobStart', b'storeBlobChunk', b'storeBlobEnd', b'vote'])
def test_a_commit_that_is_cut_leaves_nothing_behind(blob_server, client, tmp_path, frame, where):
    """B2: neither files nor descriptors, on neither side; and the next attempt works."""
    with Proxy(blob_server.address) as proxy:
        storage = client(proxy.address, blob_dir=str(tmp_path / 'cache'))
        oid = storage.new_oid()
        tid = commit(storage, store_blob(oid, tmp_path / 'up', b'first'))
        before = open_files(blob_server)
        proxy.cut(UP, frame, where)
        with pytest.raises(ClientDisconnected):
            commit(storage, store_blob(oid, tmp_path / 'up', content(1, 400 * KB), tid))
        assert proxy.cuts_made == 1
        assert os.listdir(tmp_path / 'cache' / 'tmp') == []
        tid = commit(storage, store_blob(oid, tmp_path / 'up', b'second', tid))
        assert os.listdir(tmp_path / 'blobs' / 'tmp') == []
        assert open_files(blob_server) == before
        assert read(storage, oid, tid) == b'second'
        storage.close()


@pytest.mark.parametrize('where', [BEFORE, INSIDE, AFTER])
@pytest.mark.parametrize('frame', [b'receiveBlobStart', b'receiveBlobChunk', b'receiveBlobStop'])
def test_a_download_that_is_cut_is_done_again(blob_server, client, tmp_path, frame, where):
    """B10: by the application or at once; a part of it is never taken for the whole."""
    up = client(blob_server.address, blob_dir=str(tmp_path / 'up-cache'))
    oid, data = up.new_oid(), content(2, 400 * KB)
    tid = commit(up, store_blob(oid, tmp_path / 'up', data))
    with Proxy(blob_server.address) as proxy:
        storage = client(proxy.address, blob_dir=str(tmp_path / 'cache'))
        proxy.cut(DOWN, frame, where)
        with suppress(ClientDisconnected):
            assert read(storage, oid, tid) == data
        assert proxy.cuts_made == 1
        assert os.listdir(tmp_path / 'cache' / 'tmp') == []
        assert read(storage, oid, tid) == data
        storage.close()


# ---- a server that is killed ------------------------------------------------------------------------

def files_below(directory):
    return sorted(name for _, _, names in os.walk(directory) for name in names)


@pytest.mark.parametrize('shared', [False, True])
@pytest.mark.parametrize('moment', ['half way', 'whole', 'voted', 'finished'])
def test_nothing_of_an_upload_stays_when_the_server_is_killed(blob_server, client, tmp_path, moment, shared):
    """B12: it is cleared at the next start, also what had got its name already; what is committed stays."""
    files = tmp_path / 'blobs'
    if shared:
        storage = client(blob_server.address, blob_dir=str(files), shared_blob_dir=True)
    else:
        storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    oid, other = storage.new_oid(), storage.new_oid()
    first = commit(storage, store_blob(oid, tmp_path / 'up', b'first'))
    committed = files_below(files)
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    for number, serial in ((oid, first), (other, z64)):
        _, *args = store_blob(number, tmp_path / 'up', bytes(1000 * KB), serial)
        storage.storeBlob(*args, transaction)
    if moment == 'half way':
        channel(storage).send('storeBlobStart', ())
        channel(storage).send('storeBlobChunk', (b'half',))
    if moment in ('voted', 'finished'):
        storage.tpc_vote(transaction)
    else:
        channel(storage).call('ping', ())  # it has all of them
    assert len(files_below(files)) > len(committed)
    if moment == 'finished':
        storage.tpc_finish(transaction)
        committed = files_below(files)
        assert len([name for name in committed if name.endswith('.blob')]) == 3
    if shared and moment != 'finished':  # so that the client does not do it
        inside.engine(storage).committing.phase.blobs.clear()
    blob_server.kill()
    blob_server.start()
    assert files_below(files) == committed
    if moment != 'finished':
        storage.tpc_abort(transaction)
    storage.close()


def test_two_servers_do_not_clear_each_others_uploads(blob_server, client, tmp_path):
    """B12, C26: what another process is writing is not left over, whichever server starts meanwhile."""
    started = []

    def start_another(oid, done, total):
        if not started:
            other = BlobStorage(str(tmp_path / 'blobs'), MappingStorage())
            started.append(StorageServer(('127.0.0.1', 0), {'1': other}))

    storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'), blob_progress=start_another)
    oid = storage.new_oid()
    tid = commit(storage, store_blob(oid, tmp_path / 'up', bytes(1000 * KB)))
    assert read(storage, oid, tid) == bytes(1000 * KB)
    server, = started
    server.close()


@pytest.mark.parametrize('cut', [1, 2, 3])
def test_a_copy_is_continued_wherever_it_has_ended(blob_server, client, tmp_path, cut):
    """``zodbconvert --incremental``: with blobs of which the target has a revision, or an undone one."""
    class Part:
        def __init__(self, *limits):
            self.iterator = lambda: source.iterator(*limits)
            self.loadBlob = source.loadBlob
            alsoProvides(self, IBlobStorage)

    source, oid = FileStorage(str(tmp_path / 'From.fs'), blob_dir=str(tmp_path / 'from')), p64(1)
    tids = [commit(source, store_blob(oid, tmp_path / 'up', b'1'))]
    tids += [commit(source, ('undo', source.undoLog(0, 1)[0]['id'])) for _ in 'ab']  # nothing, the first
    tids.append(commit(source, store_blob(oid, tmp_path / 'up', b'2', tids[-1])))
    storage = client(blob_server.address, blob_dir=str(tmp_path / 'cache'))
    storage.copyTransactionsFrom(Part(None, tids[cut - 1]))
    storage.copyTransactionsFrom(Part(tids[cut]))
    source.close()
    assert [transaction.tid for transaction in storage.iterator()] == tids
    assert [read(storage, oid, tid) for tid in (tids[0], *tids[2:])] == [b'1', b'1', b'2']
