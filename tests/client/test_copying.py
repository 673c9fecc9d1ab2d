"""Copying a storage into a served one: what is sent, and what happens to the source and its files."""
from __future__ import annotations

import logging
import os
import pickle

import pytest
import zope.interface
from ZODB.blob import Blob, BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.interfaces import IBlobStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import z64

from tests.client.fake_server import p64
from tests.client.test_blobs import a_file, files_in
from zeo_clone.Exceptions import CommitOutcomeUnknown

PLAIN, OID = p64(1), p64(2)
#: Of a blob, as ZODB writes it.
RECORD = pickle.dumps(Blob, 3) + pickle.dumps(None, 3)


def commit(storage, *stores):
    """One transaction of ``(name, *args)``."""
    meta = TransactionMetaData(b'who', b'what', {'x': 1})
    storage.tpc_begin(meta)
    for name, *args in stores:
        getattr(storage, name)(*args, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture
def source(tmp_path):
    """A plain object, and three revisions of one with a blob."""
    storage = BlobStorage(str(tmp_path / 'source'), MappingStorage())
    serial = z64
    commit(storage, ('store', PLAIN, z64, b'plain'))
    for data in b'0', b'1', b'2':
        serial = commit(storage, ('storeBlob', OID, serial, RECORD, a_file(tmp_path, data, 'new')))
    yield storage
    storage.close()


@pytest.fixture
def tids(source):
    """Of its transactions."""
    return [transaction.tid for transaction in source.iterator()]


@pytest.fixture
def target(fake, opened, tmp_path):
    """A client with blobs, whose server commits under the tid that it is told."""
    begun = {}

    def begin(connection, number, user, description, extension, tid, status):
        begun[number] = tid

    def finish(connection, number):
        fake.tid = begun[number]
        return fake.tid

    def history(connection, oid, size):
        raise POSKeyError(oid)

    fake.answers.update(tpc_begin=begin, tpc_finish=finish, history=history)
    return opened(blob_dir=str(tmp_path / 'blobs'))


def sent(fake, name):
    return [args for called, args in fake.calls if called == name]


def test_transactions_keep_their_tids_and_their_records(fake, source, tids, target, caplog):
    """Records are restored; with a blob they are stored, on the revision before."""
    with caplog.at_level(logging.INFO, 'zeo_clone.client.copying'):
        target.copyTransactionsFrom(source, verbose=True)
    assert [args[4:] for args in sent(fake, 'tpc_begin')] == [(tid, ' ') for tid in tids]
    assert [args[:4] for args in sent(fake, 'restorea')] == [(PLAIN, tids[0], b'plain', None)]
    assert [args[:3] for args in sent(fake, 'storeBlobEnd')] == [
        (OID, serial, RECORD) for serial in (z64, *tids[1:3])]
    assert sent(fake, 'storeBlobChunk') == [(b'0',), (b'1',), (b'2',)]
    assert caplog.text.count(', 1 records') == 4
    assert target.lastTransaction() == tids[-1]


def test_a_blob_whose_file_has_gone_is_copied_as_a_record(fake, source, tids, target):
    """It was packed away, or undone."""
    os.remove(source.fshelper.getBlobFilename(OID, tids[-1]))
    target.copyTransactionsFrom(source)
    assert [args[:4] for args in sent(fake, 'restorea')][1:] == [(OID, tids[-1], RECORD, None)]


def test_a_client_without_a_place_for_blobs_copies_records(fake, source, tids, opened):
    opened().copyTransactionsFrom(source)
    assert [args[1] for args in sent(fake, 'restorea')] == tids


def test_progress_of_a_copy_can_be_watched(source, tids, target):
    seen = []
    target.copyTransactionsFrom(source, lambda tid, count: seen.append((tid, count)))
    assert seen == [(tid, 1) for tid in tids]


@pytest.mark.parametrize('step', ['vote', 'tpc_finish'])
def test_a_copy_that_fails_leaves_nothing_open(fake, source, target, tmp_path, step):
    """L3, B2: the transaction is given up, temporary files are gone, the source's iterator is closed."""
    closed = []

    @zope.interface.implementer(IBlobStorage)
    class Watched:
        loadBlob = source.loadBlob

        def iterator(self):
            try:
                yield from list(source.iterator())[1:]
            finally:
                closed.append(True)

    def fail(connection, number):
        raise KeyError('broken')

    fake.answers[step] = fail
    with pytest.raises((KeyError, CommitOutcomeUnknown), match='broken'):
        target.copyTransactionsFrom(Watched())
    assert closed == [True]
    assert target.tpc_transaction() is None
    assert files_in(tmp_path / 'blobs') == []
