"""The operator's hand: who is meant, who may, and what the log says."""
from __future__ import annotations

import contextlib
import json
import logging
import struct

import pytest
from ZODB.MappingStorage import MappingStorage

import zeo_clone
from tests.server.desk import Desk
from tests.support import inside
from zeo_clone.commands.health import NoAnswer, Refused, ask, disconnect
from zeo_clone.loop.runtime import Runtime

OID = b'\0' * 7 + b'\1'


@pytest.fixture
def desk():
    desk = Desk({'1': MappingStorage(), 'other': MappingStorage()})
    yield desk
    desk.close()


def connect(desk, peer, label='', storage='1'):
    client = desk.stranger(peer)
    client.greet()
    client.call('register', storage, False)
    if label:
        client.oneway('set_client_label', label)
    return client


def tell(desk, own_user=True, **request):
    """What an operator is answered; the connection is to be closed after that."""
    operator = desk.stranger('unix socket, pid 7, uid 1000')
    operator.channel.own_user = own_user
    operator.feed(b'admin ' + json.dumps(request).encode())
    data, = operator.channel.out
    assert struct.unpack('>I', data[:4])[0] == len(data) - 4
    assert operator.channel.closing
    operator.hang_up()
    return json.loads(data[4:])


@pytest.mark.parametrize('wish', ['10.0.0.1:1', 'instance 1', '10.0.0.1:1 (instance 1)'])
def test_a_client_is_disconnected_by_address_or_label_and_the_log_says_by_whom(desk, caplog, wish):
    one, other = connect(desk, '10.0.0.1:1', 'instance 1'), connect(desk, '10.0.0.1:2', 'instance 2')
    assert tell(desk, disconnect=wish, by='jane on host') == {'disconnected': '10.0.0.1:1 (instance 1)'}
    assert one.lost
    assert not other.lost
    assert caplog.messages == ['10.0.0.1:1 (instance 1): disconnected by the operator (jane on host) at unix '
                               'socket, pid 7, uid 1000']
    assert caplog.records[0].levelno == logging.WARNING


def test_whoever_holds_the_commit_lock_is_disconnected_and_the_next_one_has_it(desk):
    """L10."""
    holder, waiting = connect(desk, '10.0.0.1:1'), connect(desk, '10.0.0.1:2')
    for client in (holder, waiting):
        client.begin()
        client.store(OID)
        vote = client.start('vote', 7)
    assert not waiting.has_reply(vote)
    assert tell(desk, disconnect='holder') == {'disconnected': '10.0.0.1:1'}
    assert holder.lost
    assert waiting.result(vote) == []
    waiting.call('tpc_finish', 7)
    assert desk.served['1'].stats.commits == 1
    assert tell(desk, disconnect='holder') == {'error': 'nobody holds the commit lock'}


def test_if_several_fit_they_are_listed_and_nothing_is_done(desk):
    clients = [connect(desk, f'10.0.0.1:{number}', 'same') for number in range(25)]
    clients.append(connect(desk, '10.0.0.2:1', 'same', 'other'))
    answer = tell(desk, disconnect='same')
    assert answer['error'].startswith(
        "26 clients fit 'same', and nothing was done: 10.0.0.1:0 (same) (storage '1'), ")
    assert answer['error'].endswith(' and 6 more')
    assert not any(client.lost for client in clients)
    assert tell(desk, disconnect='same', storage='other') == {'disconnected': '10.0.0.2:1 (same)'}


def test_who_cannot_be_told_apart_is_to_have_a_label(desk):
    """Processes that share a label and a unix socket, and clients of one process."""
    for label in ('same', 'same', 'other'):
        connect(desk, 'unix socket, pid 7', label)
    error = tell(desk, disconnect='unix socket, pid 7')['error']
    assert error.endswith('; give those that look alike labels of their own (client_label)')


def test_holders_of_two_locks_are_told_apart_by_the_storage(desk):
    clients = [connect(desk, '10.0.0.1:1'), connect(desk, '10.0.0.1:2', storage='other')]
    for client in clients:
        client.begin()
        client.call('vote', 7)
    assert tell(desk, disconnect='holder')['error'].startswith("2 clients fit 'holder'")
    assert tell(desk, disconnect='holder', storage='other') == {'disconnected': '10.0.0.1:2'}
    assert not clients[0].lost


@pytest.mark.parametrize(('request_', 'error'), [
    ({'disconnect': 'nobody'}, "no client has the address or label 'nobody'"),
    ({'disconnect': '1', 'storage': 'x'}, "there is no storage 'x'; there are '1', 'other'"),
    ({}, 'this server disconnects a client'), ({'disconnect': ''}, 'this server disconnects a client'),
    ({'disconnect': ['x']}, 'this server disconnects a client'),
    ({'disconnect': 'x', 'storage': 1}, 'this server disconnects a client')])
def test_nothing_is_done_if_nobody_is_meant(desk, request_, error):
    client = connect(desk, '10.0.0.1:1')
    assert tell(desk, **request_)['error'].startswith(error)
    assert not client.lost


def test_only_the_servers_own_user_may_unless_it_is_allowed(desk, caplog):
    client = connect(desk, '10.0.0.1:1', 'x')
    for _ in range(50):
        assert 'allow-disconnect' in tell(desk, own_user=False, disconnect='x')['error']
    assert not client.lost
    assert 0 < len(caplog.messages) < 10  # S16
    desk.allow_disconnect = True
    assert tell(desk, own_user=False, disconnect='x') == {'disconnected': '10.0.0.1:1 (x)'}


@pytest.mark.parametrize('content', [
    b'admin ', b'admin x', b'admin []', b'admin "x"', b'admin ' + b'[' * 1000, b'admin {"a": \xff}',
    b'admin' + b'x' * 900])
def test_nonsense_closes_the_connection(desk, content):
    """S5."""
    operator = desk.stranger()
    operator.channel.own_user = True
    operator.feed(content)
    assert operator.lost


def test_a_user_cannot_forge_log_lines(desk, caplog):
    """L8."""
    connect(desk, '10.0.0.1:1', 'x')
    tell(desk, disconnect='x', by='a\nERROR ' + 'b' * 500)
    assert '\n' not in caplog.messages[0]
    assert len(caplog.messages[0]) < 300


def test_after_its_wish_an_operator_can_say_nothing_more(desk):
    operator = desk.stranger()
    operator.feed(b'admin {"disconnect": "x"}')
    operator.feed(b'admin {"disconnect": "x"}')
    assert operator.lost


# ---- real servers ---------------------------------------------------------------------------------

@pytest.fixture
def real_client():
    with contextlib.ExitStack() as stack:
        def connect(*args, **options):
            storage = stack.enter_context(contextlib.closing(zeo_clone.client(*args, **options)))
            storage.ping()  # the server has read its label, which comes after all else
            return storage

        yield connect


def test_by_a_unix_socket_it_is_always_possible(new_server, real_client, tmp_path):
    server = new_server(addr=str(tmp_path / 'socket'))
    storage = real_client(server.addr, client_label='me')
    link = inside.link(storage)
    name = disconnect(server.addr, 'me', None, 'jane', 20)
    assert name.startswith('unix socket, pid ')
    assert link.channel.buried.wait(20)
    storage.ping()  # it comes back by itself
    with pytest.raises(Refused, match='no client has'):
        disconnect(server.addr, 'you', None, 'jane', 20)


def test_not_for_other_users(new_server, real_client, tmp_path):
    class Stranger(Runtime):
        def is_own_user(self, sock):
            return False

    server = new_server(addr=str(tmp_path / 'socket'), runtime=Stranger())
    storage = real_client(server.addr, client_label='me')
    with pytest.raises(Refused, match='allow-disconnect'):
        disconnect(server.addr, 'me', None, 'jane', 20)
    storage.ping()


@pytest.mark.parametrize('allowed', [False, True])
def test_by_tcp_only_if_it_is_allowed(new_server, real_client, allowed):
    server = new_server(allow_disconnect=allowed)
    storage = real_client(server.addr, client_label='me')
    link = inside.link(storage)
    if allowed:
        assert disconnect(server.addr, 'me', '1', 'jane', 20).endswith('(me)')
        assert link.channel.buried.wait(20)
    else:
        with pytest.raises(Refused, match='allow-disconnect'):
            disconnect(server.addr, 'me', '1', 'jane', 20)
        assert ask(server.addr, 20)['1']['connections'] == 1


def test_zeos_server_refuses_and_that_is_told(peer_server):
    with pytest.raises(NoAnswer, match='one of ZEO, which cannot disconnect clients'):
        disconnect(peer_server.address, 'me', None, 'jane', 20)
    with contextlib.closing(zeo_clone.client(peer_server.address)) as storage:
        storage.ping()
