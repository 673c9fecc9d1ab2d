"""A pack reads records as clients have stored them: keeps what they refer to, survives what they are."""
from __future__ import annotations

import gc

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, StorageError
from ZODB.utils import maxtid, p64, z64

from tests.server.backend.test_references import CLASS, NESTED_KEY, SHARED_KEY
from tests.server.desk import Desk

KEPT, LOST = p64(1), p64(2)
LATER = 4e9
EMPTY = CLASS + b'\x80\x03N.'


def referring(oid, state=b'N.'):
    """The record of an object that refers to `oid`, with `state` besides."""
    return CLASS + b'\x80\x03C\x08' + oid + b'Q0' + state


@pytest.fixture
def storage(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    yield storage
    storage.close()


@pytest.fixture
def client(storage):
    return Desk({'1': storage}).connect()


def is_there(client, oid):
    try:
        return client.call('loadBefore', oid, maxtid) is not None
    except POSKeyError:
        return False


@pytest.mark.parametrize('state', [
    NESTED_KEY, SHARED_KEY, b'Nr\x00\x5a\x62\x02.', b'Np40000000\n.', b'cos\nsystem\nX\1\0\0\0x\x85R.',
    b'\x82\1.',
])
def test_a_pack_goes_on_whatever_a_record_holds(client, state):
    """S10: and keeps what it refers to."""
    client.commit(z64, data=referring(KEPT, state))
    client.commit(KEPT, LOST, data=EMPTY)
    client.call('pack', LATER)
    assert is_there(client, KEPT)
    assert not is_there(client, LOST)


# FileStorage leaves the files of a pack that fails to Python, which closes them and warns.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('bad', [referring(KEPT)[:-1], b'data', CLASS + b'\x80\x03NQ.', b'\x80\x03'])
def test_a_pack_that_meets_an_unreadable_record_removes_nothing_and_names_the_object(client, bad, caplog):
    """S10: the log says so too, for who does not wait for the end."""
    caplog.set_level('INFO')
    client.commit(z64, data=EMPTY)
    client.commit(LOST, data=EMPTY)
    tid = client.commit(KEPT, data=bad)
    root = client.commit(z64, data=referring(KEPT), serial=client.call('loadBefore', z64, maxtid)[1])
    with pytest.raises(StorageError, match=f'nothing was packed: object 0x{KEPT.hex()} of transaction '
                                           f'0x{tid.hex()} cannot be read.*pack-gc false'):
        client.call('pack', LATER)
    assert f"'1' was not packed: StorageError: nothing was packed: object 0x{KEPT.hex()}" in caplog.text
    gc.collect()  # ... now
    assert is_there(client, LOST)
    client.commit(KEPT, data=EMPTY, serial=tid)
    client.call('pack', LATER)
    assert not is_there(client, LOST)
    assert is_there(client, KEPT)
    assert client.call('loadBefore', z64, maxtid)[1] == root


def test_a_storage_that_cannot_be_searched_has_the_beginning_of_the_record_named():
    """S10."""
    class NoIterator(MappingStorage):
        iterator = property()

    client = Desk({'1': NoIterator()}).connect()
    client.commit(z64, data=b'\x80\x03nonsense')
    begins = r"a record that begins with '\\\\x80\\x03nonsense' cannot be read"
    with pytest.raises(StorageError, match=begins):
        client.call('pack', LATER)


@pytest.mark.parametrize('first', [NESTED_KEY, SHARED_KEY, b'Nr\x00\x5a\x62\x02.'])
def test_a_pack_does_not_take_a_record_for_that_of_a_blob_in_order_to_find_out(client, first):
    """S10: records that are removed are looked at as well, if there are blobs."""
    client.commit(z64, data=EMPTY)
    client.commit(LOST, data=b'\x80\x03X\x09\0\0\0ZODB.blob0' + first + b'N.')
    client.call('pack', LATER)
    assert not is_there(client, LOST)
