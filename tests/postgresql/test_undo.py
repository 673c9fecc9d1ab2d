"""Undos beside other transactions, with a real PostgreSQL (X1)."""
from __future__ import annotations

import base64
import threading
import time

import pytest
from ZODB.utils import maxtid, p64

from tests.postgresql.counting import PATIENCE_S as LIMIT_S
from tests.postgresql.test_servers import FAILING, FAILS, OID, OTHER, store
from tests.support import inside

pytestmark = [pytest.mark.long, pytest.mark.once]

WAITS = '''SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())'''


@pytest.fixture
def keep_history():
    return True


@pytest.fixture
def history(servers, wire):
    """The first revisions of both objects, and the transaction that wrote the next ones."""
    writer = wire(servers[0])
    first = writer.commit(OID, OTHER)
    store(writer, 7, OID, OTHER, serial=first, data=b'changed')
    return first, writer.call('tpc_finish', 7)


@pytest.fixture
def waits(query):
    """Does somebody wait for a lock in the database, or `vote` end without?"""
    def wait(vote):
        until = time.monotonic() + LIMIT_S
        while time.monotonic() < until and vote.thread.is_alive():
            if query(WAITS):
                return True
        return False

    return wait


class Vote:
    """A vote of transaction `number` by `wire`, in a thread."""

    def __init__(self, wire, number):
        self._answer = self._error = None
        self.thread = threading.Thread(target=self._call, args=(wire, number))
        self.thread.start()

    def _call(self, wire, number):
        try:
            self._answer = wire.call('vote', number)
        except BaseException as error:
            self._error = error

    def answer(self):
        """When it has come.  Raises AssertionError with an error of the server's."""
        self.thread.join(LIMIT_S)
        if self._error is not None:
            raise self._error
        return self._answer


def id_of(tid):
    return base64.encodebytes(tid).rstrip(b'\n')


def begin(wire, number, undo=(), oids=(), serial=None):
    """A transaction before its vote: stores, and undos."""
    wire.oneway('tpc_begin', number, b'', b'', {}, None, ' ')
    for tid in undo:
        wire.oneway('undoa', id_of(tid), number)
    for oid in oids:
        wire.oneway('storea', oid, serial, b'last', number)


def current(wire, *oids):
    return [wire.call('loadBefore', oid, maxtid)[0] for oid in oids]


@pytest.mark.parametrize('at', [0, 1], ids=['at the same server', 'at another server'])
@pytest.mark.parametrize('commits', [True, False], ids=['that commits', 'that gives up'])
def test_an_undo_waits_for_who_has_voted(servers, wire, history, waits, at, commits):
    """X1: none of it is lost, and none of the undo."""
    voted, undoing = wire(servers[0]), wire(servers[at])
    assert store(voted, 8, OID, serial=history[1], data=b'last') == []
    begin(undoing, 9, undo=[history[1]])
    vote = Vote(undoing, 9)
    assert waits(vote)
    if commits:
        voted.call('tpc_finish', 8)
        with pytest.raises(AssertionError, match='UndoError.*modified by a later transaction'):
            vote.answer()
        assert current(voted, OID, OTHER) == [b'last', b'changed']
    else:
        voted.call('tpc_abort', 8)
        assert sorted(vote.answer()) == [OID, OTHER]
        undoing.call('tpc_finish', 9)
        assert current(undoing, OID, OTHER) == [b'data', b'data']


@pytest.mark.parametrize('undoes', [True, False], ids=['an undo', 'a store'])
def test_who_comes_after_an_undo_waits_for_it(servers, wire, history, waits, undoes):
    """X1: and meets what it has written."""
    first, second = map(wire, servers)
    begin(first, 8, undo=[history[1]])
    assert sorted(first.call('vote', 8)) == [OID, OTHER]
    if undoes:
        begin(second, 9, undo=[history[1]])
    else:
        begin(second, 9, oids=[OTHER], serial=history[1])
    vote = Vote(second, 9)
    assert waits(vote)
    first.call('tpc_finish', 8)
    with pytest.raises(AssertionError, match='UndoError' if undoes else 'ConflictError'):
        vote.answer()
    assert current(first, OID, OTHER) == [b'data', b'data']


@pytest.mark.parametrize('undoes', [True, False], ids=['two undos', 'an undo and a store'])
def test_who_waits_with_an_undo_keeps_nobody_from_committing(servers, wire, history, waits, undoes):
    """X1, C24: who has voted could not finish, and the database would end one of both."""
    voted, undoing = map(wire, servers)
    third = p64(3)
    known = voted.commit(third)
    store(voted, 7, third, serial=known, data=b'changed')
    later = voted.call('tpc_finish', 7)
    assert store(voted, 8, third, serial=later, data=b'last') == []
    if undoes:
        begin(undoing, 9, undo=[history[1], later])
    else:
        begin(undoing, 9, undo=[history[1]], oids=[third], serial=later)
    vote = Vote(undoing, 9)
    assert waits(vote)
    last = voted.call('tpc_finish', 8)
    with pytest.raises(AssertionError, match='UndoError' if undoes else 'ConflictError'):
        vote.answer()
    undoing.call('tpc_abort', 9)
    assert current(voted, OID, OTHER, third) == [b'changed', b'changed', b'last']
    begin(undoing, 10, undo=[history[1], last])
    assert sorted(undoing.call('vote', 10)) == [OID, OTHER, third]
    undoing.call('tpc_finish', 10)
    assert current(undoing, OID, OTHER, third) == [b'data', b'data', b'changed']


def test_an_undo_waits_no_longer_than_a_vote(new_database_server, wire):
    """X1: RelStorage's commit-lock-timeout; then it can be tried again."""
    server = new_database_server({'commit_lock_timeout': 0.1})
    voted, undoing = wire(server), wire(server)
    first = voted.commit(OID)
    second = voted.commit(OID, serial=first)
    assert store(voted, 8, OID, serial=second) == []
    begin(undoing, 9, undo=[second])
    with pytest.raises(AssertionError, match='ReadConflictError.*has kept what this one needs locked'):
        undoing.call('vote', 9)
    undoing.call('tpc_abort', 9)
    voted.call('tpc_abort', 8)
    begin(undoing, 10, undo=[second])
    assert undoing.call('vote', 10) == [OID]


@pytest.mark.parametrize('undo_id', [id_of(p64(5)), id_of(b'\xff' * 8), b'nonsense', b'?'])
def test_an_id_of_no_transaction_is_refused_as_ever(servers, wire, history, undo_id):
    undoing = wire(servers[0])
    undoing.oneway('tpc_begin', 9, b'', b'', {}, None, ' ')
    undoing.oneway('undoa', undo_id, 9)
    with pytest.raises(AssertionError, match='UndoError'):
        undoing.call('vote', 9)


def test_another_undo_or_a_pack_is_named(servers, wire, history, query):
    """X3, L12: by whomever; the reason was the class of an error that no client has."""
    here = wire(servers[0])
    query('SELECT pg_advisory_lock(-2)')
    begin(here, 9, undo=[history[1]])
    with pytest.raises(AssertionError, match='UndoError.*another undo or a pack is under way'):
        here.call('vote', 9)
    here.call('tpc_abort', 9)
    with pytest.raises(AssertionError, match='StorageTransactionError.*another undo or a pack is under way'):
        here.call('pack', time.time(), True)
    query('SELECT pg_advisory_unlock(-2)')
    begin(here, 10, undo=[history[1]])
    assert sorted(here.call('vote', 10)) == [OID, OTHER]


def test_what_a_pack_was_at_when_it_failed_is_not_undone(servers, wire, history, new_storage):
    """X1, D4: what was before it is gone by then; objects without a record would be committed."""
    def fail():
        raise OSError('the pack fails')

    here, storage = wire(servers[0]), new_storage(pack_batch_timeout=0)
    with inside.pack_calls(fail, history[1]), pytest.raises(OSError, match='the pack fails'):
        storage.pack(time.time() + 10, lambda record, oids=None: [OID, OTHER])
    begin(here, 9, undo=[history[1]])
    with pytest.raises(AssertionError, match='UndoError.*the pack that was at it has failed'):
        here.call('vote', 9)
    here.call('tpc_abort', 9)
    assert current(here, OID, OTHER) == [b'changed', b'changed']
    last = here.commit(OID, serial=history[1])
    begin(here, 10, undo=[last])
    assert here.call('vote', 10) == [OID]


def test_an_undo_for_which_there_is_no_room_stands_in_nobodys_way(servers, wire, history, query):
    """X3: RelStorage left its lock for packs and undos with the connection, and said another reason."""
    here, there = map(wire, servers)
    query(FAILING)
    query(FAILS.format('object_state', '53100'))
    begin(here, 9, undo=[history[1]])
    with pytest.raises(AssertionError, match='StorageError.*the disk of the database is full'):
        here.call('vote', 9)
    here.call('tpc_abort', 9)
    query('DROP TRIGGER fails ON object_state')
    begin(there, 10, undo=[history[1]])
    assert sorted(there.call('vote', 10)) == [OID, OTHER]
