"""What is counted of trouble and of traffic, and when trouble was last."""
from __future__ import annotations

import contextlib
import socket

import pytest

import zeo_clone
from tests.server.desk import Desk
from zeo_clone import troubles
from zeo_clone.server.clients import heartbeat

OID = b'\0' * 7 + b'\1'


def kinds(status):
    return {trouble.kind for trouble in troubles.find({'1': status})}


def test_clients_that_held_the_lock_for_too_long_are_counted():
    """L1"""
    desk = Desk(timeout_s=30.0)
    client = desk.connect()
    client.begin()
    client.call('vote', 7)
    for _ in range(3):  # the log has a line first
        desk.loop.advance(10)
    status = desk.served['1'].status()
    assert client.lost == 'transaction timeout'
    assert (status['timeouts'], status['latest']) == (1, {'timeouts': 0.0})
    assert kinds(status) == {'timeout'}
    desk.loop.advance(601)
    status = desk.served['1'].status()
    assert status['latest'] == {'timeouts': 601.0}
    assert kinds(status) == set()


@pytest.mark.parametrize('step_s', [-3e6, 3e6])
def test_a_clock_that_is_set_changes_no_time_span(step_s):
    """C20: or troubles would be told for weeks, or never, and a lock be held for ages."""
    desk = Desk(timeout_s=30.0)
    slow = desk.connect()
    slow.begin()
    slow.call('vote', 7)
    for _ in range(3):
        desk.loop.advance(10)
    holder = desk.connect()
    holder.begin()
    holder.call('vote', 7)
    served = desk.served['1']
    served.backend.packing.start('somebody')
    desk.loop.advance(2)
    desk.runtime.set_by_s = step_s
    status = served.status()
    assert (status['uptime'], status['latest'], status['packing']) == (32.0, {'timeouts': 2.0}, 2.0)
    assert (status['lock_holder']['seconds'], status['lock_time']) == (2.0, 1030.0 + step_s)
    assert kinds(status) == {'timeout'}


def test_cache_that_was_too_old_is_trouble_for_a_while():
    desk = Desk(history_size=1)
    client = desk.connect()
    client.commit(OID)
    client.commit(b'2' * 8)
    assert client.call('getInvalidations', b'\0' * 7 + b'\1') is None
    status = desk.served['1'].status()
    assert (status['verifications_failed'], kinds(status)) == (1, {'verification'})


def test_traffic_counts_those_who_are_here_and_those_who_have_gone():
    desk = Desk()
    here, gone = desk.connect(), desk.connect()
    here.channel.traffic, gone.channel.traffic = (100, 20, 5), (1000, 300, 0)
    gone.hang_up()
    here.channel.traffic = (200, 30, 5)
    status = desk.served['1'].status()
    assert (status['sent'], status['received']) == (1200, 330)


def test_client_that_does_not_read_is_seen_from_one_beat_to_the_next():
    """N8"""
    desk = Desk()
    client = desk.connect()
    client.channel.traffic, client.channel.queued = (100, 0, 0), 0
    client.session.beat()
    client.channel.traffic = 5000, 0, 2_000_000  # something went out, the rest waits
    desk.loop.advance(5)
    client.session.beat()
    desk.loop.advance(5)
    client.session.beat()
    status = desk.served['1'].status()
    assert status['clients'][0]['stalled'] == 5.0
    assert kinds(status) == {'stalled'}
    client.channel.traffic = 6000, 0, 1_000_000
    assert desk.served['1'].status()['clients'][0]['stalled'] == 0.0
    desk.loop.advance(5)
    client.session.beat()
    assert desk.served['1'].status()['clients'][0]['stalled'] == 0.0


def test_client_that_is_not_heard_of_any_more_is_counted():
    """N1"""
    desk = Desk()
    client = desk.connect()
    client.call('heartbeat', 1.0)
    client.channel.silence = lambda: heartbeat.PATIENCE * 1.0 + 0.1
    client.session.beat()
    assert 'nothing was heard of it' in client.lost
    assert desk.served['1'].status()['silent'] == 1


def at_end(address):
    """A connection that says nothing, until the server has closed it."""
    with socket.create_connection(address) as sock:
        while sock.recv(1000):
            pass


def test_connections_that_do_not_register_are_counted(new_server):
    """N6"""
    server = new_server(handshake_timeout_s=0.01)
    at_end(server.addr)
    assert server.server_status()['handshake_timeouts'] == 1


def test_connections_for_which_there_is_no_room_are_trouble_for_a_while(new_server):
    """S13"""
    server = new_server(max_connections=1)
    with contextlib.closing(zeo_clone.client(server.addr)):
        at_end(server.addr)
        status = server.server_status()
    assert (status['turned_away'], list(status['latest'])) == (1, ['turned_away'])
    assert kinds(status) == {'connections'}
