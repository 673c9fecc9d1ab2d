"""C11: what an inquiry makes of each answer, by a server that can be asked, and by one that cannot."""
from __future__ import annotations

import pytest
import transaction.interfaces
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import POSKeyError, ReadConflictError, ReadOnlyError
from ZODB.utils import z64

from tests.client.fake_server import FakeServer, Refuse, p64
from tests.client.test_bad_servers import tell
from tests.client.test_order import Wrapper
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

OID = p64(7)
BASE, OWN, LATER = p64(3), p64(4), p64(5)


def vote(storage, serial=BASE, data=b'new'):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(OID, serial, data, '', meta)
    storage.tpc_vote(meta)
    return meta


def lose(connection, number):
    connection.cut()
    raise Refuse


def fail(*_):
    raise OSError(5, 'Input/output error')


@pytest.fixture
def lost(fake, opened):
    """A client with a transaction whose tpc_finish loses the connection: ``lost(serial=BASE)``."""
    def make(**keywords):
        fake.tid = BASE
        fake.answers['tpc_finish'] = lose
        storage = opened()
        return storage, vote(storage, **keywords)
    return make


def end_of(storage, meta):
    """What tpc_finish says: a tid, or a word."""
    try:
        return storage.tpc_finish(meta)
    except CommitOutcomeUnknown as error:
        assert 'no reply while the transaction was being committed: it may or may not be' in str(error)
        assert not isinstance(error, transaction.interfaces.TransientError)
        return 'unknown'
    except ClientDisconnected as error:
        assert 'no reply while the transaction was being committed; nothing was committed' in str(error)
        assert isinstance(error, transaction.interfaces.TransientError)
        return 'not committed'


# ---- servers that cannot be asked ---------------------------------------------------------------

@pytest.mark.parametrize('current, base', [(BASE, BASE), (None, z64)])
def test_what_is_stored_shows_that_nothing_was_committed(fake, lost, current, base):
    """C11: the object is what it was before; looked at with the commit lock in hand."""
    def get_tid(connection, oid):
        if current is None:
            raise POSKeyError(oid)
        return current

    fake.answers['getTid'] = get_tid
    assert end_of(*lost(serial=base)) == 'not committed'
    names = [name for name, _ in fake.client.calls]
    assert names[names.index('tpc_begin'):] == ['tpc_begin', 'vote', 'getTid', 'tpc_abort']


@pytest.mark.parametrize('answer', [lambda *_: OWN, lambda *_: 'nonsense', fail])
def test_what_is_stored_leaves_it_open(fake, lost, answer):
    """C11: somebody wrote the object, perhaps somebody else; or the server does not say it."""
    fake.answers['getTid'] = answer
    assert end_of(*lost()) == 'unknown'
    fake.wait(lambda: fake.client.calls[-1][0] == 'tpc_abort')


def test_a_look_that_cannot_be_ended_well_has_been_taken_all_the_same(fake, lost, caplog):
    """C11: the answer counts; that the lock may be held is in the log."""
    fake.answers['getTid'] = lambda connection, oid: BASE
    storage, meta = lost()
    fake.answers['tpc_abort'] = fail
    assert end_of(storage, meta) == 'not committed'
    assert 'looking for the outcome of a transaction: [Errno 5]' in caplog.text


def test_a_server_that_may_be_another_proves_nothing_by_old_records(fake, lost):
    """C11."""
    second = FakeServer()
    try:
        for server in (fake, second):
            server.answers['getTid'] = lambda connection, oid: BASE
        second.tid = BASE
        storage, meta = lost()

        def leave(connection, number):
            storage.new_addr(second.address)
            raise Refuse

        fake.answers['tpc_finish'] = leave
        assert end_of(storage, meta) == 'unknown'
        storage.close()
    finally:
        second.close()


# ---- servers that can ----------------------------------------------------------------------------

def ask(fake, answer, **more):
    """Have the server know the outcome."""
    tell(fake, extensions=('commit_outcome',), **more)
    fake.answers['commit_outcome'] = answer if callable(answer) else lambda connection, number: answer


@pytest.mark.parametrize(('answer', 'end'), [
    (('committed', OWN), OWN), (('not committed', None), 'not committed'),
    (('committed', None), 'unknown'), (('committed', b'short'), 'unknown'),
    (('not committed', OWN), 'unknown'), ('committed', 'unknown'), (None, 'unknown'), (fail, 'unknown'),
])
def test_a_server_that_knows_is_believed_if_it_talks_sense(fake, lost, caplog, answer, end):
    """C11, C24: and nothing else is asked; what is no answer leaves it open, and is in the log."""
    ask(fake, answer)
    storage, meta = lost()
    told = []
    number, = dict(fake.calls)['vote']
    try:
        assert storage.tpc_finish(meta, told.append) == end
    except (CommitOutcomeUnknown, ClientDisconnected) as error:
        assert (end == 'unknown') == isinstance(error, CommitOutcomeUnknown)
    assert told == ([OWN] if end == OWN else [])
    assert ('commit_outcome', (number,)) in fake.calls
    assert fake.called('vote') == 1
    assert ('could not be found out' in caplog.text) == (end == 'unknown')


def test_a_connection_that_breaks_during_the_inquiry_is_no_answer(fake, lost):
    """C11: the next one is asked; also where the records are looked at."""
    def break_once(connection, number):
        ask(fake, ('unknown', None))
        return lose(connection, number)

    def break_the_look(connection, oid):
        fake.answers['getTid'] = lambda connection, oid: BASE
        return lose(connection, oid)

    ask(fake, break_once)
    fake.answers['getTid'] = break_the_look
    assert end_of(*lost()) == 'not committed'
    assert len(fake.registered) == 4


def test_a_server_that_cannot_tell_now_is_left_and_the_next_one_asked(fake, lost):
    """C11, X3: its database is away, which another one, or the same one soon, may have."""
    def away_once(connection, number):
        ask(fake, ('committed', OWN))
        raise ReadConflictError('the database is away')

    ask(fake, away_once)
    assert end_of(*lost()) == OWN
    assert fake.called('commit_outcome') == 2 and len(fake.registered) == 3


def test_a_server_that_is_not_sure_and_has_nothing_to_compare(fake, opened):
    """C11: an undo, say, of which only the server knew what it wrote."""
    ask(fake, ('unknown', None))
    fake.answers['tpc_finish'] = lose
    storage, meta = opened(), TransactionMetaData()
    storage.tpc_begin(meta)
    storage.tpc_vote(meta)
    assert end_of(storage, meta) == 'unknown'
    assert fake.called('vote') == 1


@pytest.mark.parametrize('current', [OWN, BASE])
def test_a_server_for_readers_only_is_asked_and_proves_nothing_by_old_records(fake, opened, current):
    """C11: it cannot be had to wait for the end of the old transaction."""
    def finish(connection, number):
        fake.answers['register'] = writers_are_refused
        return lose(connection, number)

    fake.tid = BASE
    fake.answers['tpc_finish'] = finish
    fake.answers['getTid'] = lambda connection, oid: current
    storage = opened(read_only_fallback=True)
    assert end_of(storage, vote(storage)) == 'unknown'
    assert (fake.called('getTid'), fake.called('vote')) == (1, 1)


def writers_are_refused(connection, storage, read_only):
    if not read_only:
        raise ReadOnlyError()
    return BASE


# ---- our server was restarted --------------------------------------------------------------------

def restarted(fake, first, last=OWN, revision=None):
    """It has told the tid at the vote, and remembers nothing; `first`: the transaction that it finds."""
    ask(fake, ('unknown', None))
    fake.answers['vote'] = lambda connection, number: [{'tid': OWN}]
    fake.answers['iterator_start'] = lambda connection, start, stop: 9
    fake.answers['iterator_next'] = lambda connection, iid: first
    fake.answers['lastTransaction'] = lambda connection: last

    def load_before(connection, oid, before):
        assert before == p64(5)
        if isinstance(revision, Exception):
            raise revision
        return revision

    fake.answers['loadBefore'] = load_before


def test_the_transaction_that_was_told_is_looked_for_and_is_there(fake, lost):
    """C11, N14: equal data of somebody else are not taken for it; the tid tells."""
    restarted(fake, (OWN, ' ', b'', b'', {}))
    storage, meta = lost()
    assert end_of(storage, meta) == OWN
    assert ('iterator_start', (OWN, OWN)) in fake.calls
    fake.wait(lambda: ('iterator_gc', ([9],)) in fake.calls)


@pytest.mark.parametrize(('last', 'revision', 'end'), [
    (OWN, None, 'not committed'),                      # there is nothing later, so nothing was packed
    (LATER, (b'old', BASE, None), 'not committed'),    # its object is as it was before
    (LATER, (b'other', LATER, None), 'unknown'),       # it may have been packed away
    (LATER, POSKeyError(OID), 'unknown'), (LATER, None, 'unknown'),
])
def test_a_transaction_that_is_not_there_was_not_committed_or_was_packed(fake, lost, last, revision, end):
    """C11, N14."""
    restarted(fake, None, last, revision)
    assert end_of(*lost()) == end


def test_a_server_that_finds_another_transaction_there_has_said_nothing(fake, lost):
    """C11."""
    restarted(fake, (LATER, ' ', b'', b'', {}))
    assert end_of(*lost()) == 'unknown'


def test_other_connections_learn_of_what_turned_out_to_be_committed(fake, lost):
    """C2, C11."""
    restarted(fake, (OWN, ' ', b'', b'', {}))
    storage, meta = lost()
    db = Wrapper(storage)

    def register(connection, storage, read_only):
        return OWN

    fake.answers['register'] = register
    fake.answers['getInvalidations'] = lambda connection, tid: (OWN, [OID])
    assert storage.tpc_finish(meta) == OWN
    assert db.told == [(OWN, [OID])]
    assert storage.lastTransaction() == OWN
