"""Which objects are loaded most, and conflicts by class."""
from __future__ import annotations

import contextlib

import pytest
from BTrees.OOBTree import OOBTree
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSKeyError, StorageTransactionError

import zeo_clone
from tests.server.desk import Desk
from zeo_clone.server import stats
from zeo_clone.server.backend import hot
from zeo_clone.server.backend.hot import HotObjects

OID, OTHER = b'\0' * 7 + b'\1', b'\0' * 7 + b'\2'
NOW = b'\x7f' + b'\xff' * 7
RECORD = b'cpersistent.mapping\nPersistentMapping\n.}.'


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def read(oid, tid):
    if oid == OTHER:
        raise POSKeyError(oid)
    return RECORD, b'1' * 8, None


def test_most_loaded_come_first_and_their_classes_when_they_have_been_read():
    clock = Clock()
    objects = HotObjects(read, clock)
    objects.recent.extend([OTHER, OID, OID])
    assert objects.as_dict() == {'loads': 3, 'objects': [[OID.hex(), 2, None], [OTHER.hex(), 1, None]]}
    objects.look_up(objects.strangers)
    assert objects.as_dict()['objects'] == [[OID.hex(), 2, 'persistent.mapping.PersistentMapping'],
                                            [OTHER.hex(), 1, 'nothing']]
    assert objects.strangers == []


def test_list_is_made_once_a_second_and_forgets_what_is_long_ago(monkeypatch):
    clock = Clock()
    objects = HotObjects(read, clock)
    objects.recent.append(OTHER)
    objects.as_dict()
    objects.recent.extend([OID] * hot.LOADS)
    assert objects.as_dict()['objects'] == [[OTHER.hex(), 1, None]]
    clock.now += hot.FRESH_S
    assert objects.as_dict() == {'loads': hot.LOADS, 'objects': [[OID.hex(), hot.LOADS, None]]}


def test_no_more_classes_are_remembered_than_are_allowed(monkeypatch):
    monkeypatch.setattr(hot, 'MAX_CLASSES', 2)
    objects = HotObjects(read, Clock())
    objects.look_up([OID, OTHER])
    objects.look_up([b'3' * 8])
    assert list(objects._classes) == [b'3' * 8]


def test_all_ways_to_load_count_for_the_client_and_for_the_object():
    desk = Desk()
    client = desk.connect()
    client.commit(OID)
    client.call('loadBefore', OID, NOW)
    client.call('loadBefore', OID.decode(), NOW)  # old clients send texts
    client.call('load_batch', OID + OID, NOW, 1000)
    status = desk.served['1'].status()
    assert status['hot']['objects'][0][:2] == [OID.hex(), 4]
    described, = status['clients']
    assert (described['loads'], described['commits'], status['loads']) == (4, 1, 4)


def test_server_tells_the_classes_of_what_is_loaded_most(new_server):
    server = new_server()
    with contextlib.closing(zeo_clone.connection(server.addr, cache_size=0)) as connection:
        connection.root()['tree'] = OOBTree()
        connection.transaction_manager.commit()
        for _ in range(5):
            connection.root()['tree']._p_deactivate()
            len(connection.root()['tree'])
        storage = connection.db().storage
        while any(found[2] is None for found in storage.server_status()['hot']['objects']):
            pass
        assert storage.server_status()['hot']['objects'][0][2] == 'BTrees.OOBTree.OOBTree'


@pytest.mark.parametrize('by_clients', [False, True])
def test_conflicts_are_told_apart_by_class(by_clients, monkeypatch):
    """L4"""
    monkeypatch.setattr(stats, 'MAX_CLASSES', 1)
    desk = Desk({'1': MappingStorage()}, client_conflict_resolution=by_clients)
    client = desk.connect()
    for oid, record in [(OID, RECORD), (OTHER, b'ca\nB\n.}.')]:
        for _ in range(2):
            client.begin()
            client.store(oid, data=record)
            with contextlib.suppress(ConflictError, StorageTransactionError):
                client.call('vote', 7)
                client.call('tpc_finish', 7)
            client.call('tpc_abort', 7)
    found = desk.served['1'].status()['conflict_classes']
    assert sum(found.values()) == desk.served['1'].stats.conflicts == 2
    assert len(found) == 2
    assert 'other classes' in found
