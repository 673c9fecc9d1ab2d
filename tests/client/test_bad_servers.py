"""S17, N19: what a server says of its limits, and what one that is bad can leave behind at a client."""
from __future__ import annotations

import pytest
from ZODB.Connection import TransactionMetaData

from tests.client.fake_server import Refuse, p64
from tests.support import inside
from zeo_clone.client import link, notices
from zeo_clone.Exceptions import ClientDisconnected, MessageTooLarge
from zeo_clone.zrpc.frames import DEFAULT_LIMIT, MAX_FRAME
from zeo_clone.zrpc.offers import MAX_NEW_OIDS


def tell(fake, **more):
    """Have the server say more of itself."""
    info = fake.answers['get_info']
    fake.answers['get_info'] = lambda connection: {**info(connection), **more}


def send_limit(storage):
    storage.ping()
    return inside.link(storage).channel.core.send_limit


@pytest.mark.parametrize('send', [
    lambda storage, meta, data: storage.store(p64(1), bytes(8), data, '', meta),
    lambda storage, meta, data: storage.store(bytearray(8), bytes(8), data, '', meta),
    lambda storage, meta, data: storage.restore(p64(1), p64(1), data, '', None, meta),
], ids=['store', 'odd store', 'restore'])
def test_an_object_that_the_server_does_not_take_is_refused_before_it_is_sent(fake, opened, send):
    """N19: nothing of it is sent, and the connection stays."""
    tell(fake, frame_limit=10_000)
    storage, meta = opened(), TransactionMetaData()
    storage.tpc_begin(meta)
    with pytest.raises(MessageTooLarge, match='has 20000 bytes and is too large: the server takes'):
        send(storage, meta, b'x' * 20_000)
    storage.tpc_abort(meta)
    storage.ping()
    assert fake.called('storea') == fake.called('restorea') == 0
    assert fake.called('tpc_abort') == 1
    assert len(fake.registered) == 1


@pytest.mark.parametrize(('told', 'limit'), [
    ({'frame_limit': 5000}, 5000),
    ({'frame_limit': 5000, 'extensions': ()}, 5000),
    ({'extensions': ('heartbeat',)}, DEFAULT_LIMIT),  # one of ours that does not tell it yet
    ({}, MAX_FRAME),                                  # ZEO
    ({'frame_limit': 1 << 40}, MAX_FRAME),
    ({'frame_limit': 'much'}, MAX_FRAME),
])
def test_the_limit_is_what_the_server_tells_or_what_its_kind_has(fake, opened, told, limit):
    """N19."""
    tell(fake, **told)
    assert send_limit(opened()) == limit


def test_a_client_that_finds_another_server_goes_by_its_limit(fake, opened):
    """N19."""
    tell(fake, frame_limit=5000)
    storage = opened()
    assert send_limit(storage) == 5000
    tell(fake, frame_limit=6000)
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    assert send_limit(storage) == 6000


def test_too_large_a_blob_record_is_refused_before_its_blob_is_sent(fake, opened, tmp_path):
    """N19."""
    tell(fake, frame_limit=10_000)
    storage, meta = opened(blob_dir=str(tmp_path / 'blobs')), TransactionMetaData()
    file = tmp_path / 'file'
    file.write_bytes(b'blob')
    storage.tpc_begin(meta)
    with pytest.raises(MessageTooLarge):
        storage.storeBlob(p64(1), bytes(8), b'x' * 20_000, str(file), '', meta)
    storage.tpc_abort(meta)
    storage.ping()
    assert fake.called('storeBlobStart') == 0
    assert file.exists()


def test_large_texts_of_a_server_are_not_kept(fake, opened):
    """S17."""
    tell(fake, name='n' * 1_000_000, extensions=('x' * 1_000_000,),
         interfaces=(('a' * 100, 'b' * 100),) * 1000)
    storage = opened()
    fake.client.notice('info', {'name': 'n' * 1_000_000, 'length': 7})
    storage.ping()
    assert len(storage) == 7
    info = inside.link(storage).info
    assert set(info) == {'length', 'size', 'supportsUndo'}


def test_what_servers_say_is_within_the_bounds():
    """S17: real servers list a few interfaces and short names."""
    said = {'name': '/var/lib/zeo/Data.fs', 'interfaces': (('ZODB.interfaces', 'IStorage'),) * 20,
            'extensions': ['heartbeat', 'load_batch'], 'length': 1 << 40, 'supportsUndo': True}
    assert notices.check_info(said) == said


def test_oids_that_were_not_asked_for_are_not_kept(fake, opened):
    """S17."""
    fake.answers['new_oids'] = lambda connection, n: [p64(i) for i in range(1, 100_000)]
    storage = opened()
    for _ in range(MAX_NEW_OIDS + 1):
        storage.new_oid()
    assert fake.called('new_oids') == 2


def test_invalidations_during_verification_are_kept_within_bounds(fake, opened, monkeypatch):
    """S17: however few notices they are in."""
    monkeypatch.setattr(link, 'MAX_KEPT_OIDS', 1000)

    def flood(connection):
        for number in range(3):
            connection.notice('invalidateTransaction', p64(number + 1), [p64(oid) for oid in range(400)])
        raise Refuse

    fake.answers['get_info'] = flood
    storage = opened(wait=False, wait_timeout=0.2)
    fake.wait(lambda: len(fake.registered) >= 2)
    with pytest.raises(ClientDisconnected):
        storage.ping()
    assert fake.called('get_info') >= 2


@pytest.mark.parametrize('reply', [
    ([bytes(20)], b''), (b'', b'x' * 1_000_000), (bytes(20) * 3, b''), (b'\0\0\0\5' + bytes(16), b'12345'),
], ids=['no heads', 'only data', 'more than asked', 'data of nothing'])
def test_a_batch_that_was_not_asked_for_leaves_nothing(fake, opened, reply):
    """S17: it ends the connection, and nothing of it is in the cache."""
    tell(fake, extensions=('load_batch',))
    fake.answers['load_batch'] = lambda connection, oids, tid, size: reply
    storage = opened()
    storage.prefetch([p64(1), p64(2)], b'\x7f' + b'\xff' * 7)
    fake.wait(lambda: len(fake.registered) == 2)
    assert len(inside.cache(storage)) == 0


@pytest.mark.parametrize('name', ['receiveBlobStart', 'receiveBlobChunk', 'receiveBlobStop'])
def test_a_blob_that_was_not_asked_for_ends_the_connection(fake, opened, name):
    """S17."""
    opened()
    fake.client.notice(name, p64(1), p64(1), *((b'x' * 59_000,) if name == 'receiveBlobChunk' else ()))
    fake.wait(lambda: len(fake.registered) == 2)
