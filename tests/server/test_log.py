"""The log: whatever a client repeats is one line, and now and then how often (S16, N15)."""
from __future__ import annotations

import logging
import socket

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.POSException import UndoError

from tests.server.desk import Desk
from zeo_clone.server.clients.listen import origin
from zeo_clone.zrpc.frames import frame

OID = b'\0' * 7 + b'\1'
TIMES = 100


@pytest.fixture
def desk():
    desk = Desk()
    yield desk
    desk.close()


def lines(caplog, level=logging.INFO):
    return [record for record in caplog.records if record.levelno >= level]


def test_a_wrong_storage_name_is_one_line(desk, caplog):
    """S16.  Whoever asks comes again once a second, for days."""
    caplog.set_level(logging.INFO)
    for number in range(TIMES):
        client = desk.stranger(f'10.0.0.1:{number}')
        client.greet()
        with pytest.raises(ValueError, match="^unknown storage 'wrong'; this server has '1'$"):
            client.call('register', 'wrong', False)
        client.hang_up()
    line, = lines(caplog)
    assert line.getMessage() == "10.0.0.1:0: refused: unknown storage 'wrong'; this server has '1'"
    assert line.levelname == 'WARNING'
    assert not line.exc_info
    desk.loop.advance(60)
    client = desk.stranger('10.0.0.1:7')
    client.greet()
    with pytest.raises(ValueError, match='unknown storage'):
        client.call('register', 'wrong', False)
    assert lines(caplog)[-1].getMessage() == (
        "10.0.0.1:7: refused: unknown storage 'wrong'; this server has '1' "
        f'({TIMES - 1} more of these in the last 60 s)')


def test_another_host_with_the_same_mistake_is_named_as_well(desk, caplog):
    for host in ('10.0.0.1', '10.0.0.2', '10.0.0.1'):
        client = desk.stranger(f'{host}:1')
        client.greet()
        with pytest.raises(ValueError, match='unknown storage'):
            client.call('register', 'wrong', False)
    assert [line.getMessage()[:10] for line in lines(caplog)] == ['10.0.0.1:1', '10.0.0.2:1']


def test_calls_at_the_wrong_moment_leave_nothing_in_the_log(desk, caplog):
    client = desk.connect()
    for _ in range(TIMES):
        with pytest.raises(ValueError, match='is registered'):
            client.call('register', '1', False)
        with pytest.raises(ValueError, match='has not said who it is'):
            client.call('commit_outcome', 1)
    assert not lines(caplog, logging.WARNING)


@pytest.mark.parametrize('undo_id', [b'xx', b'', b'x', b'AAAA', b'\xff\xfe', b'A' * 12, b'A' * 200])
def test_bad_undo_ids_are_undo_errors_and_leave_nothing_in_the_log(tmp_path, caplog, undo_id):
    """S16."""
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    desk = Desk({'1': storage})
    client = desk.connect()
    client.commit(OID)
    for _ in range(3):
        client.begin()
        client.oneway('undoa', undo_id, 7)
        with pytest.raises(UndoError):
            client.call('vote', 7)
        client.call('tpc_abort', 7)
    client.commit(OID, serial=client.call('lastTransaction'))
    assert not lines(caplog)
    desk.close()
    storage.close()


def test_an_error_of_the_storage_has_one_traceback(desk, caplog):
    """S16.  Another error has its own."""
    client = desk.connect()
    storage = desk.storages['1']
    for kind in (ZeroDivisionError, RuntimeError):
        def fail(oid, kind=kind):
            raise kind('a reason')
        storage.getTid = fail
        for _ in range(TIMES):
            with pytest.raises(Exception, match='a reason'):
                client.call('getTid', OID)
    assert [(line.getMessage(), line.exc_info[0]) for line in lines(caplog)] == [
        ('peer:1: getTid failed', ZeroDivisionError), ('peer:1: getTid failed', RuntimeError)]
    desk.loop.advance(60)
    with pytest.raises(Exception, match='a reason'):
        client.call('getTid', OID)
    last = lines(caplog)[-1]
    assert last.getMessage() == (
        f'peer:1: getTid failed: RuntimeError: a reason ({TIMES - 1} more of these in the last 60 s)')
    assert not last.exc_info


def test_a_storage_that_fails_in_every_commit_has_one_traceback(desk, caplog):
    """S16, L9."""
    def fail(transaction, func=None):
        raise OSError(5, 'disk broken')
    desk.storages['1'].tpc_finish = fail
    client = desk.connect()
    for _ in range(TIMES):
        client.begin()
        client.call('vote', 7)
        with pytest.raises(OSError, match='disk broken'):
            client.call('tpc_finish', 7)
    assert len([line for line in lines(caplog) if 'failed in tpc_finish' in line.getMessage()]) == 1
    assert len(lines(caplog)) <= 3


def test_a_cache_that_is_dropped_again_and_again_is_counted(caplog):
    desk = Desk(history_size=1)
    client = desk.connect()
    client.commit(OID, OID)
    client.commit(b'other it')
    for _ in range(TIMES):
        assert client.call('getInvalidations', b'\0' * 7 + b'\1') is None
    assert 0 < len(lines(caplog, logging.WARNING)) < 10
    desk.close()


@pytest.mark.parametrize('nonsense', ['nonsense', 'tpc_finish'])
def test_clients_that_are_thrown_out_again_and_again_are_counted(desk, caplog, nonsense):
    for _ in range(TIMES):
        client = desk.connect()
        client.oneway(nonsense)
        assert client.lost
    assert 0 < len(lines(caplog, logging.WARNING)) < 10


def test_coming_and_going_is_counted(desk, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(TIMES):
        desk.connect().hang_up()
    assert 20 <= len(lines(caplog)) <= 40
    desk.loop.advance(60)
    caplog.clear()
    desk.connect()
    assert lines(caplog)[0].getMessage().endswith('protocol Z5 (80 more of these in the last 60 s)')


def test_strangers_at_the_port_are_counted(new_server, caplog):
    """S16.  A browser, or TLS, at a port without."""
    server = new_server()
    for data in (b'GET / HTTP/1.0\r\n\r\n', b'\x16\x03\1\2\0\1', frame(b'Z9')):
        for _ in range(20):
            with socket.create_connection(server.addr) as sock:
                sock.sendall(data)
                while sock.recv(1000):
                    pass
    assert 0 < len(lines(caplog)) < 10


@pytest.mark.parametrize(('name', 'expected'), [
    ('10.0.0.1:4711', '10.0.0.1'), ('10.0.0.1:4711 (a (b): c)', '10.0.0.1'), ('[::1]:80 (x)', '[::1]'),
    ('unix socket, pid 7, uid 1000 (x)', 'unix socket, uid 1000'),
    ('unix socket, descriptor 7', 'unix socket')])
def test_where_a_client_comes_from_does_not_change_with_its_connections(name, expected):
    assert origin(name) == expected
