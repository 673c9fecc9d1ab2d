"""The history of an object, read from the transactions themselves, of a storage that cannot tell it."""
from __future__ import annotations

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, z64

from zeo_clone.server.backend.descriptions import look_up

OID = p64(1)


def commit(storage, serial, data, description=b'why'):
    meta = TransactionMetaData(b'who', description, {'x': 1})
    storage.tpc_begin(meta)
    storage.store(OID, serial, data, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture
def written():
    """A storage, and the tids of three revisions, the newest first."""
    storage, tids = MappingStorage(), [z64]
    for size in 1, 2, 3:
        tids.append(commit(storage, tids[-1], b'x' * size))
    return storage, tids[:0:-1]


@pytest.mark.parametrize('size', [1, 2, 3, 99])
def test_the_newest_revisions_are_told_with_their_transactions(written, size):
    """L11: as many as there are, if more are asked for."""
    storage, tids = written
    found = look_up(storage, OID, size)
    assert [entry['tid'] for entry in found] == tids[:size]
    assert [entry['size'] for entry in found] == [3, 2, 1][:size]
    for entry in found:
        assert (entry['user_name'], entry['description'], entry['x']) == (b'who', b'why', 1)


class Says(MappingStorage):
    """Answers the end of a history in the way of other storages."""

    def loadBefore(self, oid, tid):
        found = super().loadBefore(oid, tid)
        if found is None:
            raise POSKeyError(oid)
        return found


def test_the_end_of_a_history_may_be_an_error_and_an_unknown_object_is_one():
    storage = Says()
    tid = commit(storage, z64, b'x')
    assert [entry['tid'] for entry in look_up(storage, OID, 5)] == [tid]
    with pytest.raises(POSKeyError):
        look_up(storage, p64(9), 5)


def test_a_transaction_that_a_pack_has_taken_meanwhile_is_left_out(written):
    """L5."""
    storage, tids = written
    storage.iterator = lambda start, stop: iter(())
    assert look_up(storage, OID, 3) == []
    assert look_up(storage, OID, 0) == [] and tids
