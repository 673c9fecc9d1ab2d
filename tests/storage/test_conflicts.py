"""Two clients change the same object: the server merges what can be merged."""
from __future__ import annotations

import datetime
import logging
import uuid
from decimal import Decimal
from fractions import Fraction

import pytest
import transaction
import ZODB
from BTrees.IOBTree import IOBTree
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree, OOTreeSet
from persistent import Persistent
from persistent.mapping import PersistentMapping
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError

from tests.support.record_fuzz import record
from tests.support.server_process import ServerProcess
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.family import Family
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.records import read
from zeo_clone.server.backend.resolvable import Resolvable


class Visits(Persistent):
    """An application's class that resolves conflicts, with values of a class of its own."""

    def __init__(self):
        self.count = 0
        self.price = Price(1)

    def _p_resolveConflict(self, old, committed, new):
        new['count'] += committed['count'] - old['count']
        return new


class Price:
    """A value in a state."""

    def __init__(self, amount):
        self.amount = amount


class Pair:
    """Two clients of a server, each with a database and a connection of its own."""

    def __init__(self, client, address):
        self.managers = [transaction.TransactionManager() for _ in range(2)]
        self.databases = [ZODB.DB(client(address, server_sync=True)) for _ in range(2)]
        self.roots = [database.open(manager).root()
                      for database, manager in zip(self.databases, self.managers, strict=True)]

    def begin(self):
        for manager in self.managers:
            manager.begin()

    def put(self, **objects):
        self.begin()
        self.roots[0].update(objects)
        self.managers[0].commit()
        self.begin()

    def commit(self):
        for manager in self.managers:
            manager.commit()
        self.begin()

    def close(self):
        for manager, root, database in zip(self.managers, self.roots, self.databases, strict=True):
            manager.abort()
            root._p_jar.close()
            database.close()


@pytest.fixture
def pair(client, tmp_path):
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as server:
        pair = Pair(client, server.address)
        yield pair
        pair.close()


def kinds_of_values():
    zones = {'utc': datetime.timezone.utc, 'fixed': datetime.timezone(datetime.timedelta(hours=1))}
    values = {'decimal': Decimal('1.5'), 'fraction': Fraction(1, 3), 'uuid': uuid.UUID(int=5),
              'date': datetime.date(2020, 1, 1), 'span': datetime.timedelta(1), 'bytes': b'\xff',
              'set': {1, 2}, 'object': PersistentMapping, 'nested': (1, [2, {'three': None}])}
    return {**values, **{name: datetime.datetime(2020, 1, 1, tzinfo=zone) for name, zone in zones.items()}}


@pytest.mark.parametrize('name', kinds_of_values())
def test_entries_in_one_tree_are_merged(pair, name):
    """S9: whatever their values are."""
    value = kinds_of_values()[name]
    make = value if name == 'object' else lambda: value
    pair.put(tree=OOBTree({'start': make()}))
    pair.roots[0]['tree']['a'] = make()
    pair.roots[1]['tree']['b'] = make()
    pair.commit()
    for root in pair.roots:
        assert list(root['tree']) == ['a', 'b', 'start']
        assert type(root['tree']['a']) is type(root['tree']['b']) is type(make())
        assert name == 'object' or root['tree']['b'] == value


def test_entries_with_time_zones_of_pytz_are_merged(pair):
    """S9: both kinds of zones, as values and as keys."""
    pytz = pytest.importorskip('pytz')
    for zone in (pytz.utc, pytz.timezone('Europe/Rome'), pytz.FixedOffset(90)):
        days = [pytz.utc.localize(datetime.datetime(2020, 1, day)).astimezone(zone) for day in (1, 2, 3)]
        pair.put(tree=OOBTree({days[0]: days[0]}))
        pair.roots[0]['tree'][days[1]] = days[1]
        pair.roots[1]['tree'][days[2]] = days[2]
        pair.commit()
        assert [dict(root['tree']) for root in pair.roots] == [{day: day for day in days}] * 2


def test_trees_sets_and_lengths_as_an_index_has_them_are_merged(pair):
    """S9: what indexes of catalogs consist of."""
    pair.put(documents=IOBTree({1: OOTreeSet(['a'])}), words=OOTreeSet(['a']), length=Length(1))
    for number, root in enumerate(pair.roots, 2):
        root['documents'][number] = OOTreeSet([f'w{number}'])
        root['words'].insert(f'w{number}')
        root['length'].change(1)
    pair.commit()
    for root in pair.roots:
        assert {number: list(words) for number, words in root['documents'].items()} == {
            1: ['a'], 2: ['w2'], 3: ['w3']}
        assert (list(root['words']), root['length']()) == (['a', 'w2', 'w3'], 3)


def test_a_mapping_is_a_conflict(pair):
    """As with ZEO: it resolves nothing."""
    pair.put(mapping=PersistentMapping())
    for number, root in enumerate(pair.roots):
        root['mapping'][number] = number
    pair.managers[0].commit()
    with pytest.raises(ConflictError, match='class persistent.mapping.PersistentMapping'):
        pair.managers[1].commit()


@pytest.mark.parametrize(('keys', 'merged'), [
    ([f'{__name__}.*'], True), ([f'{__name__}.Visits', f'{__name__}.Price'], True),
    ([f'{__name__}.Visits'], False), ([], False)])
def test_a_class_of_an_application_is_merged_if_its_key_is_there(new_server, client, tmp_path, caplog,
                                                                 keys, merged):
    """S9: it and what its states hold; the log says what is missing."""
    caplog.set_level(logging.INFO, 'zeo_clone.server.backend.guard')
    server = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'))}, resolve=keys)
    pair = Pair(client, server.addr)
    pair.put(visits=Visits())
    for root in pair.roots:
        root['visits'].count += 1
    pair.managers[0].commit()
    if merged:
        pair.managers[1].commit()
        pair.begin()
        assert [root['visits'].count for root in pair.roots] == [2, 2]
        assert pair.roots[0]['visits'].price.amount == 1
    else:
        with pytest.raises(ConflictError, match=f'class {__name__}.Visits'):
            pair.managers[1].commit()
        missing = 'Price' if keys else 'Visits'
        assert f"put 'resolve {__name__}.{missing}' into <zeo>" in caplog.text
    pair.close()


@pytest.mark.parametrize(('module', 'name', 'states', 'expected'), [
    ('zope.minmax', 'Maximum', (1, 5, 3), 5),
    ('zc.queue', 'Queue', ({'_data': (1,)}, {'_data': (1, 2)}, {'_data': (1, 3)}), {'_data': (1, 2, 3)}),
    ('Products.Transience.Transience', 'Increaser', (1, 5, 3), 5),
    ('plone.scale.storage', 'ScalesDict',
     ({'data': {}}, {'data': {'a': {'modified': 1}}}, {'data': {'b': {'modified': 2}}}),
     {'data': {'a': {'modified': 1}, 'b': {'modified': 2}}}),
])
def test_classes_of_zope_and_plone_are_merged_without_a_key(module, name, states, expected):
    """S9: where they are installed; a small part of what a site has, on behalf of the rest."""
    kind = getattr(pytest.importorskip(module), name)
    resolvable = Resolvable()
    guard = Guard('1', resolvable, False, REAL)
    found = read(guard.resolve(*(record(kind, state) for state in states)), Family(resolvable.maker))
    assert found.state == expected
    assert resolvable.find(*found.name) is kind
