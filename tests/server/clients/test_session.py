"""Sessions: what a client may call, how it is answered, how a connection ends.  Bytes in, bytes out."""
from __future__ import annotations

import json
import logging
import pickle
from functools import partial

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, ReadOnlyError
from ZODB.utils import maxtid, p64, z64

from tests.server.desk import Desk
from zeo_clone.server.clients.methods import METHODS, Kind

OID = p64(1)


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def client(desk):
    return desk.connect()


class Untouchable(MappingStorage):
    """A storage that may not be called by clients."""

    def touched(self, name, *_):
        raise AssertionError(f'{name} was called')

    def __getattribute__(self, name):
        if name in ('loadBefore', 'loadSerial', 'getTid', 'history', 'new_oid', 'pack', 'tpc_begin', 'store',
                    'undoLog', 'record_iternext'):
            return partial(self.touched, name)
        return super().__getattribute__(name)


# ---- registering ----------------------------------------------------------------------------------

def test_register_answers_with_the_last_tid(desk):
    assert desk.connect().commit(OID) == desk.served['1'].audience.last_tid()
    client = desk.stranger()
    client.greet()
    assert client.call('register', '1', False) == desk.served['1'].audience.last_tid()


def test_registering_twice_is_a_value_error(client):
    with pytest.raises(ValueError, match="registered for storage '1' already"):
        client.call('register', '1', False)


def test_an_unknown_storage_is_a_value_error_that_names_the_known_ones(desk):
    client = desk.stranger()
    client.greet()
    with pytest.raises(ValueError, match="unknown storage 'other'; this server has '1'"):
        client.call('register', 'other', False)
    assert client.call('register', '1', False) == z64, 'it may try again'


def test_a_read_only_server_refuses_writers_but_takes_readers():
    """S7."""
    client = Desk(read_only=True).stranger()
    client.greet()
    with pytest.raises(ReadOnlyError):
        client.call('register', '1', False)
    assert client.call('register', '1', True) == z64


@pytest.mark.parametrize('name', sorted(set(METHODS) - {'register', 'getAuthProtocol'}))
def test_before_register_nothing_else_may_be_called(name):
    """S2."""
    client = Desk({'1': Untouchable()}).stranger()
    client.greet()
    client.start(name, *[OID] * METHODS[name].required)
    assert 'before register' in client.lost
    assert not client.channel.out[1:]


# ---- calls ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['close', '__class__', '_call', 'tpc_transaction', 'iterator', 'cleanup'])
def test_a_method_that_is_not_listed_closes_the_connection(desk, caplog, name):
    """S2."""
    client = desk.connect()
    with caplog.at_level(logging.INFO):
        client.start(name)
    assert client.lost == f'it called {name!r}, which is not a method of this server'
    assert [record.message for record in caplog.records] == [f'peer:1: disconnected: {client.lost}']


@pytest.mark.parametrize('name, args', [
    ('loadBefore', (OID,)), ('loadBefore', (OID, maxtid, 1)), ('ping', (1,)), ('vote', ()),
    ('storea', (OID, z64, b'')), ('new_oids', (1, 2)),
])
def test_a_wrong_number_of_arguments_closes_the_connection(name, args):
    """S2: and nothing is called."""
    client = Desk({'1': Untouchable()}).connect()
    client.start(name, *args)
    assert client.lost == f'it called {name} with {len(args)} arguments'


@pytest.mark.parametrize('name', [name for name in METHODS if METHODS[name].kind is Kind.CALL])
def test_a_call_whose_answer_matters_cannot_be_one_way(name):
    client = Desk({'1': Untouchable()}).connect()
    client.oneway(name, *[OID] * METHODS[name].required)
    assert 'one-way' in client.lost


@pytest.mark.parametrize('args', [(b'short', maxtid), (OID, None), (7, maxtid), (OID, [maxtid]),
                                  ('\u0100' * 8, maxtid)])
@pytest.mark.parametrize('name', ['loadBefore', 'loadSerial'])
def test_arguments_of_wrong_types_reach_no_storage(name, args):
    """S5a."""
    client = Desk({'1': Untouchable()}).connect()
    with pytest.raises(ValueError, match=f'{name}: 8 bytes expected'):
        client.call(name, *args)
    assert client.call('ping') is None, 'the connection goes on'


def test_text_of_8_latin_1_characters_is_an_oid(client):
    """S5a."""
    client.commit(b'\x7f' + b'\xff' * 7)
    assert client.call('loadBefore', '\x7f' + '\xff' * 7, maxtid)[0] == b'data'


def test_the_message_id_is_echoed_whatever_it_is(client):
    for message_id in (0, 1 << 40, 'id', b'id', (OID, maxtid)):
        assert client.call('ping', message_id=message_id) is None
        with pytest.raises(POSKeyError):
            client.call('loadBefore', OID, maxtid, message_id=(message_id, 1) if type(message_id) is int
                        else message_id * 2)


@pytest.mark.parametrize('name, args', [
    ('loadBefore', (OID, maxtid)), ('getTid', (OID,)), ('ping', ()), ('get_info', ()), ('history', (OID,)),
    ('vote', (7,)), ('tpc_finish', (7,)), ('tpc_abort', (7,)), ('undoLog', (0, 5)), ('pack', (1.0, True)),
    ('getInvalidations', (OID,)), ('new_oids', ()), ('server_status', ()), ('record_iternext', (None,)),
])
def test_every_call_gets_exactly_one_reply(client, name, args):
    """S3: also those that fail; the wire complains about a second one."""
    assert client.has_reply(client.start(name, *args))


def test_a_result_that_cannot_be_encoded_is_answered_by_an_error(desk, client):
    """S3."""
    desk.storages['1'].getTid = lambda oid: object()
    with pytest.raises(TypeError, match='cannot'):
        client.call('getTid', OID)


def test_a_reply_after_the_end_is_dropped(desk, client):
    later = []
    desk.workers.run = lambda lane, function, long: later.append(type(lane)) or client.session.server.deferred
    from zeo_clone.server.deferred import Deferred
    desk.deferred = Deferred()
    client.start('history', OID, 100)
    client.hang_up()
    desk.deferred.succeed([])
    assert client.channel.out == []


def test_an_ordinary_exception_goes_to_the_client_and_not_into_the_log(client, caplog):
    """L4."""
    with caplog.at_level(logging.INFO), pytest.raises(POSKeyError) as caught:
        client.call('loadBefore', OID, maxtid)
    assert caught.value.args == (OID,)
    assert caplog.records == []


def test_an_unexpected_exception_is_logged_with_peer_and_label(desk, client, caplog):
    client.oneway('set_client_label', 'worker 3')
    desk.storages['1'].getTid = lambda oid: 1 // 0
    with pytest.raises(Exception, match='division'):
        client.call('getTid', OID)
    assert caplog.messages == ['peer:1 (worker 3): getTid failed']
    assert caplog.records[0].exc_info


def test_a_one_way_call_that_fails_closes_the_connection_with_one_line(client, caplog):
    with caplog.at_level(logging.INFO):
        client.oneway('set_client_label', 7)
    assert len(caplog.messages) == 1
    assert 'set_client_label' in caplog.messages[0]
    assert caplog.messages[0].startswith('peer:1: disconnected: a one-way call')


def test_a_label_cannot_forge_log_lines(client):
    """L8, N9."""
    client.oneway('set_client_label', 'a\nERROR forged' + 'x' * 200)
    assert client.session.name.startswith('peer:1 (a?ERROR forgedxxx')
    assert len(client.session.name) < 120


def test_bytes_that_are_no_message_close_the_connection(client, caplog):
    client.feed(b'\x80\x03garbage')
    assert client.lost
    assert len(caplog.messages) == 1


def test_nothing_is_imported_because_a_message_names_it(client):
    """S1."""
    client.feed(pickle.dumps((1, False, 'ping', (logging.Handler,)), 3))
    assert client.lost


def test_methods_that_the_storage_itself_offers_can_be_called(tmp_path):
    """Extension methods, as in ZEO 4; and nothing else of the storage."""
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    client = Desk({'1': storage}).connect()
    assert client.call('getExtensionMethods') == {'answer_to_the_ultimate_question': None}
    assert client.call('answer_to_the_ultimate_question') == 42
    with pytest.raises(TypeError):
        client.call('answer_to_the_ultimate_question', 1)
    client.start('cleanup')
    assert client.lost
    storage.close()


def test_extension_methods_are_not_for_strangers(tmp_path):
    """S2."""
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    client = Desk({'1': storage}).stranger()
    client.greet()
    client.start('answer_to_the_ultimate_question')
    assert client.lost
    storage.close()


# ---- reading --------------------------------------------------------------------------------------

def test_records_are_answered_as_the_storage_has_them(client):
    first = client.commit(OID, data=b'one')
    second = client.commit(OID, data=b'two', serial=first)
    assert client.call('loadBefore', OID, maxtid) == (b'two', second, None)
    assert client.call('loadBefore', OID, second) == (b'one', first, second)
    assert client.call('loadBefore', OID, first) is None
    assert client.call('loadSerial', OID, first) == b'one'
    assert client.call('getTid', OID) == second
    assert client.call('lastTransaction') == second
    assert [entry['tid'] for entry in client.call('history', OID, 20)] == [second, first]


def test_get_info_tells_what_the_storage_can(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    info = Desk({'1': storage}).connect().call('get_info')
    storage.close()
    assert info == {
        'length': 0, 'size': 4, 'name': str(tmp_path / 'Data.fs'), 'supportsUndo': True,
        'supports_record_iternext': True, 'interfaces': info['interfaces'],
        'extensions': info['extensions'], 'instance': 'desk', 'frame_limit': 256 << 20,
        'database': (tmp_path / 'Data.fs.identity').read_text().strip()}
    assert ('ZODB.interfaces', 'IStorageUndoable') in info['interfaces']
    assert ('zope.interface', 'Interface') in info['interfaces']


def test_what_a_storage_lacks_is_unsupported(client):
    for name, args in [('undoLog', (0, 5)), ('record_iternext', ())]:
        with pytest.raises(Exception, match=f'the storage has no {name}'):
            client.call(name, *args)


def test_the_undo_log_and_record_iternext_are_the_storages_own(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    client = Desk({'1': storage}).connect()
    tid = client.commit(OID)
    assert client.call('record_iternext', None) == (OID, tid, b'data', None)
    entry, = client.call('undoLog', 0, 5)
    assert client.call('undoInfo', 0, -5, None) == [entry]
    assert client.call('undoInfo', 0, -5, {'user_name': b'somebody'}) == []
    storage.close()


def test_new_oids_are_never_the_same_twice(desk):
    """C13: over clients, aborts and reconnects."""
    seen = []
    for _ in range(3):
        client = desk.connect()
        seen += client.call('new_oids')
        client.begin()
        client.store(seen[-1])
        client.call('vote', 7)
        client.call('tpc_abort', 7)
        seen += client.call('new_oids', 7)
        client.hang_up()
    assert len(seen) == len(set(seen)) == 3 * 107


def test_new_oids_are_not_those_of_objects_stored_before_a_restart(tmp_path):
    """C13."""
    path = str(tmp_path / 'Data.fs')
    storage = FileStorage(path)
    client = Desk({'1': storage}).connect()
    stored = client.call('new_oids', 3)
    client.commit(*stored)
    storage.close()
    storage = FileStorage(path)
    assert not set(Desk({'1': storage}).connect().call('new_oids')) & set(stored)
    storage.close()


@pytest.mark.parametrize('committed', [True, False])
def test_new_oids_are_not_those_that_clients_have_from_before_a_restart(tmp_path, committed):
    """C13: ZEO's clients keep those that they have over a reconnect, and all of them new objects."""
    path = str(tmp_path / 'Data.fs')
    storage = FileStorage(path)
    client = Desk({'1': storage}).connect()
    seen = client.call('new_oids')
    client.commit(seen[0])
    for _ in range(3):
        storage.close()
        storage = FileStorage(path)
        client = Desk({'1': storage}).connect()
        seen += client.call('new_oids')
        if committed:
            client.commit(seen[-1])
    storage.close()
    assert len(seen) == len(set(seen)) == 400


@pytest.mark.parametrize('asked, given', [(1, 1), (100, 100), (101, 100), (1 << 30, 100), (0, 0), (-5, 0)])
def test_new_oids_are_at_most_a_hundred(client, asked, given):
    assert len(client.call('new_oids', asked)) == given


# ---- read-only sessions ---------------------------------------------------------------------------

WRITES = [
    ('storea', (OID, z64, b'data', 7)), ('restorea', (OID, z64, b'data', None, 7)),
    ('deleteObject', (OID, z64, 7)), ('undoa', (b'AAAAAAAAAAA=', 7)),
    ('checkCurrentSerialInTransaction', (OID, z64, 7)),
]


@pytest.mark.parametrize('name, args', WRITES)
def test_a_read_only_session_cannot_write(desk, name, args):
    """S7."""
    client = desk.connect(read_only=True)
    client.begin()
    client.oneway(name, *args)
    with pytest.raises(ReadOnlyError):
        client.call('vote', 7)
    with pytest.raises(ReadOnlyError):
        client.call('tpc_finish', 7)
    client.call('tpc_abort', 7)
    assert desk.served['1'].audience.last_tid() == z64
    assert client.lost is None


def test_the_list_of_writing_methods_is_whole():
    """S7: a new method that belongs to a transaction has to be in the test above."""
    buffered = {name for name, method in METHODS.items() if method.kind is Kind.BUFFERED}
    assert {name for name in buffered if 'Blob' not in name} == {name for name, _ in WRITES}


def test_a_read_only_session_gets_no_oids_but_may_pack(desk):
    """S7."""
    client = desk.connect(read_only=True)
    with pytest.raises(ReadOnlyError):
        client.call('new_oids')
    assert client.call('pack', 1.0, True) is None


# ---- health, the end ------------------------------------------------------------------------------

def test_ruok_is_answered_with_the_status_of_all_storages_and_silence(caplog):
    """N9."""
    desk = Desk({'1': MappingStorage(), 'other': MappingStorage()})
    client = desk.stranger()
    with caplog.at_level(logging.INFO):
        client.feed(b'ruok')
        client.hang_up()
    assert json.loads(client.channel.out[0][4:]) == desk.ruok()
    assert client.channel.closing
    assert caplog.records == []


def test_a_stranger_that_leaves_is_not_worth_a_line(desk, caplog):
    """N9."""
    with caplog.at_level(logging.INFO):
        desk.stranger().hang_up()
        greeted = desk.stranger()
        greeted.greet()
        greeted.hang_up()
    assert caplog.records == []


def test_the_status_has_the_keys_that_monitoring_knows(client):
    status = client.call('server_status')
    assert set(status) >= {
        'connections', 'loads', 'stores', 'commits', 'aborts', 'active_txns', 'lock_time', 'conflicts',
        'conflicts_resolved', 'start', 'waiting', 'timeout-thread-is-alive', 'last-transaction'}
    assert status['last-transaction'] == '0' * 16


def test_the_status_counts(desk):
    one, other = desk.connect(), desk.connect()
    tid = one.commit(OID)
    one.call('loadBefore', OID, maxtid)
    one.begin()
    other.begin()
    status = other.call('server_status')
    assert {key: status[key] for key in ('connections', 'loads', 'stores', 'commits', 'active_txns')} == {
        'connections': 2, 'loads': 1, 'stores': 1, 'commits': 1, 'active_txns': 2}
    one.call('tpc_abort', 7)
    status = other.call('server_status')
    assert (status['aborts'], status['active_txns']) == (1, 1)
    assert status['last-transaction'] == tid.hex()


def test_a_session_that_ends_leaves_nothing_behind(desk, client):
    """C16."""
    client.begin()
    client.hang_up()
    assert desk.forgotten == [client.session]
    status = desk.served['1'].status()
    assert (status['connections'], status['active_txns']) == (0, 0)


def test_packing_tells_all_clients_the_new_size_before_it_answers(desk, client):
    other = desk.connect()
    client.commit(z64, data=pickle.dumps(None, 3) * 2)
    client.take_notices()
    other.take_notices()
    assert client.call('pack', 2e9, True) is None
    assert [name for name, _ in client.take_notices()] == ['info']
    assert [name for name, _ in other.take_notices()] == ['info']


def test_a_pack_that_fails_is_told(desk, client, caplog):
    def pack(time, references):
        raise ValueError('not now')
    desk.storages['1'].pack = pack
    with pytest.raises(ValueError, match='not now'):
        client.call('pack', 1.0, True)
    desk.loop.advance(60)
    assert client.call('pack', 1.0, False) is None
    assert caplog.messages == ['peer:1: pack failed'] * 2


def test_a_pack_that_has_ended_well_or_not_leaves_the_storage_to_the_next(desk, client):
    """L12."""
    for time in (1.0, 'never', 2.0):
        try:
            client.call('pack', time, True)
        except ValueError:
            assert time == 'never'
        assert client.call('server_status')['packing'] is None


@pytest.mark.parametrize('label', ['x' * 300, b'x' * 300])
def test_a_long_label_is_cut(client, label):
    """N18: ZEO's clients send it as it is."""
    client.oneway('set_client_label', label)
    assert client.session.name == f'peer:1 ({"x" * 100})'
    client.call('ping')
