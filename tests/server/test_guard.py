"""The guard of conflict resolution on the server: only classes, or it stays a conflict."""
from __future__ import annotations

import logging
import os
import pickle

import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError, UndoError
from ZODB.serialize import ObjectWriter
from ZODB.utils import maxtid, p64

from tests.server.desk import Desk
from zeo_clone.server.guard import check_record, is_safe

OID = p64(1)
TOUCHED = []


def touch(*args):
    """A function that a record could name."""
    TOUCHED.append(args)
    return 0


def record(obj):
    return ObjectWriter().serialize(obj)


def length(value):
    return record(Length(value))


#: A `Length` whose state calls a function while it is unpickled.
CALLS = b'\x80\x03cBTrees.Length\nLength\n.\x80\x03c' + __name__.encode() + b'\ntouch\n)R.'
#: A record whose class is a function.
IS_FUNCTION = b'\x80\x03c' + __name__.encode() + b'\ntouch\n.\x80\x03N.'


@pytest.fixture(autouse=True)
def _untouched():
    TOUCHED.clear()
    yield
    assert TOUCHED == []


@pytest.fixture
def client(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    yield Desk({'1': storage}).connect()
    storage.close()


@pytest.mark.parametrize('obj', [Length(3), OOBTree({1: 2}), PersistentMapping(a=[1, 2.0, None, b'x'])])
def test_ordinary_records_pass(obj):
    check_record(record(obj))


def test_a_class_that_is_not_installed_passes():
    """References to objects of such classes are all over the place; nothing can be called."""
    check_record(b'\x80\x03cno_such_module\nThing\n.\x80\x03}.')


@pytest.mark.parametrize('bad', [
    CALLS, IS_FUNCTION, b'\x80\x03cos\nsystem\n.N.', b'N.(S\'id\'\nios\nsystem\n.',
    pickle.dumps(os.getcwd, 4) + b'N.', b'N.\x82\x01.', b'', b'N.', b'\x80', b'\xff' * 10,
])
def test_what_could_call_something_else_is_refused(bad):
    """S5c."""
    assert is_safe(bad) == (bad in (b'N.',))


def store(client, data, serial, message='vote'):
    client.begin()
    client.store(OID, data, serial)
    return client.call('vote', 7)


def test_an_ordinary_conflict_is_resolved(client):
    first = client.commit(OID, data=length(1))
    client.commit(OID, data=length(2), serial=first)
    assert store(client, length(4), first) == [OID]
    client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid)[0] == length(5)
    assert client.call('server_status')['conflicts_resolved'] == 1


@pytest.mark.parametrize('bad', [CALLS, IS_FUNCTION])
@pytest.mark.parametrize('place', ['old', 'committed', 'new'])
def test_a_record_that_names_a_function_is_a_plain_conflict(client, caplog, bad, place):
    """S5c: whichever of the three records it is; and L4: no noise about it."""
    records = {'old': length(1), 'committed': length(2), 'new': length(4), place: bad}
    first = client.commit(OID, data=records['old'])
    second = client.commit(OID, data=records['committed'], serial=first)
    with caplog.at_level(logging.INFO, 'zeo_clone'), pytest.raises(ConflictError) as caught:
        store(client, records['new'], first)
    assert (caught.value.oid, caught.value.serials) == (OID, (second, first))
    assert caplog.records == []


@pytest.mark.parametrize('bad', [CALLS, IS_FUNCTION])
def test_an_undo_that_meets_such_a_record_is_not_possible(client, bad):
    """S5c."""
    first = client.commit(OID, data=length(1))
    second = client.commit(OID, data=bad, serial=first)
    client.commit(OID, data=length(3), serial=second)
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, 3)[1]['id'], 7)
    with pytest.raises(UndoError):
        client.call('vote', 7)


@pytest.mark.parametrize('before, after', [(length(1), CALLS), (CALLS, length(1)), (IS_FUNCTION, CALLS)])
def test_such_a_record_can_be_stored_and_undone_without_a_conflict(client, before, after):
    """It is the application's business what its records name."""
    first = client.commit(OID, data=before)
    client.commit(OID, data=after, serial=first)
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, 1)[0]['id'], 7)
    assert client.call('vote', 7) == [OID]
    client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid)[0] == before
