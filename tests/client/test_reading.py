"""What a ClientStorage answers by itself, and what it passes on, against a scripted server."""
from __future__ import annotations

import pytest
from persistent.TimeStamp import TimeStamp
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError, Unsupported
from ZODB.utils import maxtid

from tests.client.fake_server import p64
from tests.client.test_order import Wrapper, serve_one
from tests.support import inside
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import REAL_WORLD
from zeo_clone.Exceptions import ClientDisconnected, UnrecognizedResult

OID = p64(7)


def test_names_that_programs_know_of_zeo(fake, opened, tmp_path):
    serve_one(fake)
    storage = opened(blob_dir=str(tmp_path / 'blobs'))
    assert storage.load(OID) == (b'old', p64(1))
    assert storage.blob_dir == str(tmp_path / 'blobs')
    assert not storage.shared_blob_dir
    assert storage.fshelper.base_dir.rstrip('/') == str(tmp_path / 'blobs')
    assert len(storage) == 0 and bool(storage)
    storage.cleanup()
    bare = opened()
    assert (bare.blob_dir, bare.fshelper) == (None, None)
    with pytest.raises(Unsupported, match='give it one to use blobs'):
        bare.loadBlob(OID, p64(1))


def test_load_of_an_object_that_has_no_revision_is_a_key_error(fake, opened):
    fake.answers['loadBefore'] = lambda connection, oid, before: None
    with pytest.raises(POSKeyError):
        opened().load(OID)


def test_versions_are_not_supported(opened, tmp_path):
    """Of ZODB they have gone; nothing else could be meant by one."""
    storage, meta = opened(blob_dir=str(tmp_path / 'blobs')), TransactionMetaData()
    storage.tpc_begin(meta)
    for call in (
            lambda: storage.load(OID, 'version'),
            lambda: storage.store(OID, p64(1), b'', 'version', meta),
            lambda: storage.restore(OID, p64(1), b'', 'version', None, meta),
            lambda: storage.storeBlob(OID, p64(1), b'', 'file', 'version', meta)):
        with pytest.raises(Unsupported, match='versions'):
            call()
    storage.tpc_abort(meta)


def test_questions_are_passed_on(fake, opened):
    fake.answers.update(getTid=lambda connection, oid: p64(3),
                        server_status=lambda connection: {'loads': 5},
                        record_iternext=lambda connection, next: (OID, p64(3), b'data', next))
    storage = opened()
    assert storage.getTid(OID) == p64(3)
    assert storage.server_status(timeout=5) == {'loads': 5}
    assert storage.record_iternext(OID) == (OID, p64(3), b'data', OID)


def test_what_a_transaction_checks_and_undoes_is_passed_on(fake, opened):
    storage, meta = opened(), TransactionMetaData()
    storage.tpc_begin(meta)
    storage.checkCurrentSerialInTransaction(OID, p64(3), meta)
    storage.undo(b'some transaction', meta)
    storage.tpc_vote(meta)
    assert storage.voted_tid(meta) is None  # ZEO does not say it
    storage.tpc_abort(meta)
    number, = dict(fake.calls)['vote']
    assert ('checkCurrentSerialInTransaction', (OID, p64(3), number)) in fake.calls
    assert ('undoa', (b'some transaction', number)) in fake.calls


@pytest.mark.parametrize('when', [1000.0, TimeStamp(1970, 1, 1, 0, 16, 40.0)])
def test_a_pack_is_as_of_a_time_or_of_a_time_stamp(fake, opened, when):
    opened().pack(when, days=-1, wait=0)
    (t, wait), = [args for name, args in fake.calls if name == 'pack']
    assert (round(t), wait) == (1000 + 86400, 0)


def test_a_server_without_oids_is_an_error(fake, opened):
    """C13, S17."""
    fake.answers['new_oids'] = lambda connection, n: []
    with pytest.raises(UnrecognizedResult, match='new_oids with an empty list'):
        opened().new_oid()


def test_open_connections_can_be_told_to_look_anew(opened):
    storage = opened()
    storage.invalidateCache()  # there is none
    db = Wrapper(storage)
    storage.invalidateCache()
    assert db.cache_dropped == 1


def test_sync_asks_the_server_if_that_is_wished(fake, connected):
    """C20, K7: without a server reading goes on."""
    def never(*args):
        raise ValueError('not now')

    storage = connected(server_sync=True, wait_timeout=0.2)
    storage.sync(force=False)
    assert fake.called('ping') == 0
    storage.sync()
    assert fake.called('ping') == 1
    fake.answers['register'] = never
    fake.client.cut()
    fake.wait(lambda: fake.called('register') == 2)
    storage.sync()
    assert fake.called('ping') == 1


def test_a_storage_that_cannot_be_made_leaves_nothing(fake, tmp_path, monkeypatch):
    """C21: nor does its cache file stay locked."""
    path = str(tmp_path / 'c.zec')
    (tmp_path / 'blobs').write_bytes(b'no directory')
    with pytest.raises(OSError):
        ClientStorage(fake.address, cache=path, blob_dir=str(tmp_path / 'blobs'))
    monkeypatch.setattr(REAL_WORLD, 'remember', lambda storage: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ClientStorage(fake.address, cache=path)
    monkeypatch.undo()
    ClientStorage(fake.address, cache=path, wait_timeout=10).close()


@pytest.mark.parametrize('answer', [5, (b'data',), (b'data', p64(1), 'end'), ('data', p64(1), None)])
def test_what_is_no_revision_is_an_error(fake, opened, answer):
    """S17, K4: and does not enter the cache."""
    fake.answers['loadBefore'] = lambda connection, oid, before: answer
    storage = opened()
    with pytest.raises((UnrecognizedResult, ClientDisconnected)):
        storage.loadBefore(OID, maxtid)
    assert not len(inside.cache(storage))


ONE = (p64(3), ' ', b'', b'', {})


@pytest.mark.parametrize('answers', [
    {'iterator_next': 'nonsense'}, {'iterator_next': (b'short', ' ', b'', b'', {})},
    {'iterator_next': ONE, 'iterator_record_next': 'nonsense'},
    {'iterator_next': ONE, 'iterator_record_next': (b'short', p64(3), b'', None)}])
def test_an_iteration_over_nonsense_says_so(fake, opened, answers):
    """S17."""
    answers = {'iterator_start': 1, 'iterator_record_start': 2, **answers}
    for name, answer in answers.items():
        fake.answers[name] = lambda connection, *args, answer=answer: answer
    with pytest.raises(UnrecognizedResult, match='sent something that is no'):
        for transaction in opened().iterator():
            list(transaction)


def test_an_iteration_that_has_ended_asks_no_more(fake, opened):
    """L6."""
    fake.answers['iterator_start'] = lambda connection, start, stop: 1
    iterator = opened().iterator()
    assert list(iterator) == list(iterator) == []
    assert fake.called('iterator_next') == 1
