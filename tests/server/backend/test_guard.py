"""Conflict resolution on the server: classes that the operator allows, on states of harmless values."""
from __future__ import annotations

import io
import logging
import os
import pickle
import sys
import threading

import pytest
from BTrees.Length import Length
from BTrees.OOBTree import OOBTree, OOBucket
from persistent import Persistent
from persistent.mapping import PersistentMapping
from ZODB.ConflictResolution import ConflictResolvingStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, UndoError
from ZODB.serialize import ObjectReader, ObjectWriter
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import maxtid, p64

from tests.server.desk import Desk
from tests.support.record_fuzz import Fuzz, Reference
from tests.support.record_fuzz import record as make_record
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.guard import Envelope, Guard
from zeo_clone.server.backend.resolvable import Resolvable

OID = p64(1)
OTHER = p64(99)
TOUCHED = []


def touch(*args):
    """A function that a record could name."""
    TOUCHED.append(args)
    return 0


class Counter(Persistent):
    """An application's class that resolves conflicts."""

    def _p_resolveConflict(self, old, committed, new):
        new['value'] += committed['value'] - old['value']
        return new


class Failing(Persistent):
    """One whose method does not work."""

    def _p_resolveConflict(self, old, committed, new):
        raise KeyError('x' * 5000)


class ResolvesLate(ConflictResolvingStorage, MappingStorage):
    """A storage that resolves conflicts when it votes, in a thread of its own."""

    def __init__(self):
        super().__init__()
        self._stores = []

    def store(self, oid, serial, data, version, transaction):
        self._stores.append((oid, serial, data))

    def tpc_vote(self, transaction):
        resolved = []
        for oid, serial, data in self._stores:
            current = self.getTid(oid) if oid in self._data else serial
            if current != serial:
                data = self._elsewhere(oid, current, serial, data)
                resolved.append(oid)
            super().store(oid, current, data, '', transaction)
        super().tpc_vote(transaction)
        return resolved

    def _elsewhere(self, *args):
        result = []

        def resolve():
            try:
                result.append(self.tryToResolveConflict(*args))
            except ConflictError as error:
                result.append(error)

        thread = threading.Thread(target=resolve)
        thread.start()
        thread.join()
        if isinstance(result[0], ConflictError):
            raise result[0]
        return result[0]

    def tpc_abort(self, transaction):
        self._stores = []
        super().tpc_abort(transaction)

    def tpc_finish(self, transaction, func=lambda tid: None):
        self._stores = []
        return super().tpc_finish(transaction, func)


def record(obj):
    return ObjectWriter().serialize(obj)


def length(value):
    return record(Length(value))


def counter(value):
    found = Counter()
    found.value = value
    return record(found)


def bucket(**items):
    return make_record(OOBucket, OOBucket(items).__getstate__())


#: A `Length` whose state calls a function while it is unpickled.
CALLS = b'\x80\x03cBTrees.Length\nLength\n.\x80\x03c' + __name__.encode() + b'\ntouch\n)R.'
#: A record whose class is a function.
IS_FUNCTION = b'\x80\x03c' + __name__.encode() + b'\ntouch\n.\x80\x03N.'
#: A record whose class is made by a function, which is not named at the start.
CLASS_CALLS = b'\x80\x03N0c' + __name__.encode() + b'\ntouch\n)R.N.'
#: One whose class takes arguments, made by a function.
ARGUMENTS_CALL = b'cBTrees.Length\nLength\nc' + __name__.encode() + b'\ntouch\n)R\x85\x86.K\x01.'
BAD = [CALLS, IS_FUNCTION, CLASS_CALLS, ARGUMENTS_CALL, pickle.dumps(os.getcwd, 4) + b'N.', b'N.\x82\x01.',
       b'N.', b'\x80', b'\xff' * 10]


@pytest.fixture(autouse=True)
def _untouched():
    TOUCHED.clear()
    yield
    assert TOUCHED == []


@pytest.fixture(params=['file', 'demo', 'late', 'hex'])
def storage(request, tmp_path):
    if request.param == 'late':
        storage = ResolvesLate()
    else:
        storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
        if request.param == 'hex':
            storage = HexStorage(storage)
        elif request.param == 'demo':
            storage = DemoStorage(base=storage)
    yield storage
    storage.close()


@pytest.fixture
def file_storage(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    yield storage
    storage.close()


def desk_of(storage, *keys, **options):
    return Desk({'1': storage}, resolvable=Resolvable(keys), **options)


def conflict(client, old, committed, new, times=1):
    """Make a conflict; the vote's answer.  All but the last of `times` fail."""
    first = client.commit(OID, data=old)
    client.commit(OID, data=committed, serial=first)
    for _ in range(times - 1):
        with pytest.raises(ConflictError):
            vote(client, new, first)
        client.call('tpc_abort', 7)
    return vote(client, new, first)


def vote(client, data, serial):
    client.begin()
    client.store(OID, data, serial)
    return client.call('vote', 7)


def resolved(client, old, committed, new):
    """Make a conflict that is resolved; the record that comes of it."""
    answer = conflict(client, old, committed, new)
    assert OID in answer
    client.call('tpc_finish', 7)
    return client.call('loadBefore', OID, maxtid)[0]


def test_a_length_is_resolved(storage):
    """S9: in whatever step and thread a storage does it."""
    client = desk_of(storage).connect()
    assert resolved(client, length(1), length(2), length(4)) == length(5)
    assert client.call('server_status')['conflicts_resolved'] == 1


def test_a_bucket_is_resolved_as_zodb_does_it(storage):
    """S9."""
    client = desk_of(storage).connect()
    found = resolved(client, bucket(a=1, b='x'), bucket(a=1, b='x', c=(3, None)), bucket(a=2, b='x'))
    assert found == bucket(a=2, b='x', c=(3, None))


def test_a_small_tree_is_resolved(storage):
    """S9: a tree that has its only bucket in its own record."""
    client = desk_of(storage).connect()
    trees = [record(OOBTree(items)) for items in ({1: 'a'}, {1: 'a', 2: 'b'}, {1: 'a', 3: 'c'})]
    assert resolved(client, *trees) == record(OOBTree({1: 'a', 2: 'b', 3: 'c'}))


def test_objects_that_are_referred_to_are_not_imported_and_keep_their_class(storage):
    """S9: whether the server has that class or not, clients read what they stored."""
    client = desk_of(storage).connect()
    ghost = b'\x80\x03C\x08' + OTHER + b'cnowhere.to_be_found\nThing\n\x86Q'

    def with_ghost(extra):
        return (make_record(OOBucket, None).rpartition(b'\x80\x03')[0] + b'\x80\x03((X\x01\0\0\0a' + ghost[2:]
                + extra + b'tt.')

    before = set(sys.modules)
    states = [with_ghost(b''), with_ghost(b'X\x01\0\0\0bK\x01'), with_ghost(b'X\x01\0\0\0cK\x02')]
    found = resolved(client, *states)
    assert set(sys.modules) == before

    class Connection:
        def get(self, oid):
            raise KeyError(oid)

    asked = []

    def factory(connection, module, name):
        asked.append((module, name))
        return {'OOBucket': OOBucket}.get(name, PersistentMapping)

    class Cache(dict):
        def new_ghost(self, oid, obj):
            self[oid] = obj

    cache = Cache()
    (items,) = ObjectReader(Connection(), cache, factory).getState(found)
    assert items == ('a', cache[OTHER], 'b', 1, 'c', 2)
    assert ('nowhere.to_be_found', 'Thing') in asked


def test_references_of_all_kinds_are_as_they_were(storage):
    """S9: weak ones and those to other databases too."""
    client = desk_of(storage).connect()
    references = [OTHER, (OTHER, OOBucket), [OTHER], ['w', (OTHER,)], ['w', (OTHER, 'db')], ['n',
    ('db', OTHER)],
                  ['m', ('db', OTHER, OOBucket)]]

    def with_references(**items):
        state = OOBucket(items).__getstate__()
        items = tuple(x for n, data in enumerate(references) for x in (f'{n}', Reference(data)))
        return make_record(OOBucket, ((*items, *state[0]) if state else items,))

    found = resolved(client, with_references(), with_references(x=1), with_references(y=2))
    loaded = []
    unpickler = Reading(found, loaded)
    unpickler.load()
    unpickler.load()
    pair = ('BTrees.OOBTree', 'OOBucket')
    assert loaded == [OTHER, (OTHER, pair), [OTHER], ['w', (OTHER,)], ['w', (OTHER, 'db')], ['n',
    ('db', OTHER)],
                      ['m', ('db', OTHER, pair)]]


class Reading(pickle.Unpickler):
    """Notes the references in a record."""

    def __init__(self, data, loaded):
        super().__init__(io.BytesIO(data))
        self._loaded = loaded

    def persistent_load(self, reference):
        self._loaded.append(reference)


@pytest.mark.parametrize('bad', BAD)
@pytest.mark.parametrize('place', ['old', 'committed', 'new'])
def test_a_record_that_would_call_something_is_a_plain_conflict(storage, bad, place):
    """S9, S5c: whichever of the three records it is; the error that the client gets included."""
    client = desk_of(storage).connect()
    records = {'old': length(1), 'committed': length(2), 'new': length(4), place: bad}
    with pytest.raises(ConflictError) as caught:
        conflict(client, **records)
    assert caught.value.oid == OID
    assert client.call('loadBefore', OID, maxtid)[0] == records['committed']
    if place != 'new':
        assert caught.value.class_name == 'BTrees.Length.Length'


def test_a_conflict_whose_old_revision_is_gone_is_an_ordinary_one(storage, caplog):
    """L4, S16: packed away, or of a client's own making; ZODB would log a traceback for each."""
    client = desk_of(storage).connect()
    client.commit(OID, data=length(1))
    with pytest.raises(ConflictError) as caught:
        vote(client, length(2), p64(1))
    assert caught.value.oid == OID
    assert [found.getMessage() for found in caplog.records if found.levelno > logging.DEBUG] == []


@pytest.mark.parametrize('bad', BAD)
def test_a_storage_that_resolves_nothing_is_not_made_to_call_anything(bad):
    """S9: its exception would have named the class of the record."""
    client = Desk({'1': MappingStorage()}).connect()
    with pytest.raises(ConflictError) as caught:
        conflict(client, length(1), length(2), bad)
    assert caught.value.oid == OID
    client.call('tpc_abort', 7)
    serial = client.call('loadBefore', OID, maxtid)[1]
    client.commit(OID, data=bad, serial=serial)
    assert client.call('loadBefore', OID, maxtid)[0] == bad


def test_a_class_that_is_not_allowed_is_a_conflict_and_the_log_has_the_key(storage, caplog):
    """S9, L4: one line, and none for the next conflict of that class in the same hour."""
    desk = desk_of(storage)
    client = desk.connect()
    with caplog.at_level(logging.INFO, 'zeo_clone.server.backend.guard'):
        with pytest.raises(ConflictError, match=f'class {__name__}.Counter') as caught:
            conflict(client, counter(1), counter(2), counter(4), times=3)
    _, first = caught.value.serials
    assert [found.getMessage() for found in caplog.records] == [
        f"storage '1': a conflict of {__name__}.Counter was not resolved here, for the server may not use "
        f'{__name__}.Counter, or does not have it; if it resolves conflicts, or objects of it are part of '
        f"such states, install it and put 'resolve {__name__}.Counter' into <zeo>"]
    caplog.clear()
    desk.runtime.now += 3601
    with caplog.at_level(logging.INFO, 'zeo_clone.server.backend.guard'):
        client.call('tpc_abort', 7)
        with pytest.raises(ConflictError):
            vote(client, counter(4), first)
    assert len(caplog.records) == 1


@pytest.mark.parametrize('key', [f'{__name__}.Counter', f'{__name__}.*', 'tests.*'])
def test_a_class_is_allowed_by_name_or_by_its_package(storage, key):
    """S9."""
    client = desk_of(storage, key).connect()
    assert resolved(client, counter(1), counter(2), counter(4)) == counter(5)


def test_many_classes_that_are_not_allowed_do_not_fill_the_log(file_storage, caplog):
    """N15, S16: a line in ten seconds, however many names a client thinks of; and a short one."""
    desk = desk_of(file_storage)
    client = desk.connect()
    first = client.commit(OID, data=length(1))
    client.commit(OID, data=length(2), serial=first)
    with caplog.at_level(logging.INFO, 'zeo_clone.server.backend.guard'):
        for number in range(100):
            with pytest.raises(ConflictError):
                vote(client, b'c%b%d\nC\x07\n.N.' % (b'x' * 190, number), first)
            client.call('tpc_abort', 7)
            desk.runtime.now += 0.5
    assert len(caplog.records) == 5
    assert max(len(found.getMessage()) for found in caplog.records) < 1500
    assert '\x07' not in caplog.text


def test_what_zodb_itself_never_resolves_is_not_worth_a_line(file_storage, caplog):
    """L4."""
    client = desk_of(file_storage).connect()
    mapping = record(PersistentMapping(a=1))
    with caplog.at_level(logging.INFO, 'zeo_clone'), pytest.raises(ConflictError):
        conflict(client, mapping, mapping, mapping)
    assert caplog.records == []


def test_a_method_that_fails_is_a_conflict_and_one_short_line(file_storage, caplog):
    """S16, L8: with the traceback, once in a while."""
    client = desk_of(file_storage, f'{__name__}.*').connect()
    failing = record(Failing())
    with caplog.at_level(logging.INFO, 'zeo_clone.server.backend.guard'):
        with pytest.raises(ConflictError, match=f'class {__name__}.Failing'):
            conflict(client, failing, failing, failing, times=3)
    found, = caplog.records
    assert f'of {__name__}.Failing failed, and the conflict stays one: KeyError' in caplog.text
    assert 'raise KeyError' in caplog.text
    assert len(logging.Formatter().format(found)) < 4000


def test_references_that_differ_are_an_ordinary_conflict(file_storage, caplog):
    """L4: two clients have put different objects at the same place."""
    client = desk_of(file_storage).connect()
    records = [make_record(OOBucket, (('a', 1, *items),)) for items in (
        (), ('b', Reference(p64(5))), ('b', Reference(p64(6))))]
    with caplog.at_level(logging.INFO, 'zeo_clone'), pytest.raises(ConflictError):
        conflict(client, *records)
    assert caplog.records == []


def test_an_undo_is_resolved(file_storage):
    """S9."""
    client = desk_of(file_storage).connect()
    assert undone(client, length(1), length(3), length(10)) == length(8)


def test_an_undo_is_resolved_even_if_conflicts_are_left_to_clients(file_storage):
    """S9: no client could."""
    client = desk_of(file_storage, client_conflict_resolution=True).connect()
    assert undone(client, length(1), length(3), length(10)) == length(8)


def test_conflicts_of_stores_are_left_to_clients_if_they_want_it(file_storage):
    client = desk_of(file_storage, client_conflict_resolution=True).connect()
    (found,) = conflict(client, length(1), length(2), length(4))
    assert (found['oid'], found['data']) == (OID, length(4))


def undone(client, first, second, third):
    """Undo the second of three transactions; the record that comes of it."""
    serial = client.commit(OID, data=first)
    serial = client.commit(OID, data=second, serial=serial)
    client.commit(OID, data=third, serial=serial)
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, 3)[1]['id'], 7)
    assert client.call('vote', 7) == [OID]
    client.call('tpc_finish', 7)
    return client.call('loadBefore', OID, maxtid)[0]


@pytest.mark.parametrize('bad', [CALLS, IS_FUNCTION])
def test_an_undo_that_meets_a_record_that_calls_something_is_not_possible(file_storage, bad):
    """S9, S5c."""
    with pytest.raises(UndoError):
        undone(desk_of(file_storage).connect(), length(1), bad, length(3))


@pytest.mark.parametrize('before, after', [(length(1), CALLS), (CALLS, length(1)), (IS_FUNCTION, CALLS)])
def test_such_a_record_can_be_stored_and_undone_without_a_conflict(file_storage, before, after):
    """It is the application's business what its records name."""
    client = desk_of(file_storage).connect()
    first = client.commit(OID, data=before)
    client.commit(OID, data=after, serial=first)
    client.begin()
    client.oneway('undoa', client.call('undoLog', 0, 1)[0]['id'], 7)
    assert client.call('vote', 7) == [OID]
    client.call('tpc_finish', 7)
    assert client.call('loadBefore', OID, maxtid)[0] == before


def test_a_storage_that_transforms_records_hands_them_out_while_a_commit_is_under_way(tmp_path):
    """S9: whoever reads for clients gets no envelopes."""
    storage = HexStorage(FileStorage(str(tmp_path / 'Data.fs')))
    desk = desk_of(storage)
    committing, reading = desk.connect(), desk.connect()
    tid = committing.commit(OID, data=length(1))
    committing.begin()
    committing.store(OID, length(2), tid)
    committing.call('vote', 7)
    iterator = reading.call('iterator_start', None, None)
    assert reading.call('iterator_next', iterator)[0] == tid
    records = reading.call('iterator_record_start', iterator, tid)
    assert reading.call('iterator_record_next', records)[2] == length(1)
    assert reading.call('loadBefore', OID, maxtid)[0] == length(1)
    committing.call('tpc_finish', 7)
    reading.hang_up()
    storage.close()


def test_no_record_reaches_zodbs_unpickler():
    """S9: what a storage gets, while a commit is under way, is an envelope, with bytes in it."""
    guard = Guard('1', Resolvable(), False, REAL)
    assert guard.wrap(CALLS) == CALLS  # nothing is under way: somebody reads
    guard.begin()
    assert guard.wrap(CALLS) == CALLS  # the loop's thread, between the steps of the commit
    guard.start()
    envelope = guard.wrap(CALLS)
    assert CALLS in envelope
    reading = pickle.Unpickler(io.BytesIO(envelope))
    assert reading.load() is Envelope
    assert reading.load().endswith(CALLS)
    guard.stop()
    guard.end()
    assert guard.pack(lambda: guard.wrap(CALLS)) == envelope
    guard.begin()
    found = []

    def look():
        found.append(guard.wrap(CALLS))
        found.append(guard.read(lambda: guard.wrap(CALLS)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [envelope, CALLS]


def test_a_record_of_a_blob_is_known_as_one():
    """B1: by whoever asks whether it is one."""
    from ZODB.blob import Blob, is_blob_record
    guard = Guard('1', Resolvable(), False, REAL)
    assert guard.pack(lambda: is_blob_record(guard.wrap(record(Blob()))))
    assert not guard.pack(lambda: is_blob_record(guard.wrap(b'cZODB.blob\nBlob\nN0.')))
    assert not guard.pack(lambda: is_blob_record(guard.wrap(make_record(OOBucket, 'ZODB.blob'))))


def test_an_envelope_in_another_form_is_never_stored():
    """S9: should ZODB write records differently one day, that is a conflict."""
    guard = Guard('1', Resolvable(), False, REAL)
    assert guard.unwrap(length(1)) == length(1)
    for size in (0, 1, 255, 256, 100_000):
        assert guard.unwrap(make_record(Envelope, b'x' * size)) == b'x' * size
    for data in (make_record(Envelope, b'x', protocol=2), make_record(Envelope, b'x' * 300)[:-10],
                 pickle.dumps(Envelope, 5) + pickle.dumps(b'x', 5)):
        with pytest.raises(ConflictError, match='not known here'):
            guard.unwrap(data)


def test_changed_records_call_nothing_and_end_as_conflicts_or_records():
    """S9, S10: at random; ``python -m tests.support.record_fuzz 1000000`` does more of it, with a watch."""
    fuzz = Fuzz(seed=1)
    fuzz.run(500)
    before = set(sys.modules)
    fuzz.run(3000)
    assert {name for name in set(sys.modules) - before if not name.startswith('encodings.')} == set()
    assert set(fuzz.outcomes) == {'references found', 'references not found', 'resolved', 'conflict'}
