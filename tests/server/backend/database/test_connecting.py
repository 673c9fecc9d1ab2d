"""Connections to one host after the other (X3)."""
from __future__ import annotations

import socket

import pytest

from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.database.connecting import Connector, one_by_one, with_timeouts

psycopg2 = pytest.importorskip('psycopg2')
extensions = pytest.importorskip('psycopg2.extensions')


@pytest.mark.parametrize('dsn, hosts', [
    ('host=a dbname=x', [{'host': 'a', 'dbname': 'x'}]),
    ('dbname=x', [{'dbname': 'x'}]),
    ('host=a,b dbname=x', [{'host': 'a', 'dbname': 'x'}, {'host': 'b', 'dbname': 'x'}]),
    ('host=a,b port=1,2', [{'host': 'a', 'port': '1'}, {'host': 'b', 'port': '2'}]),
    ('host=a,b port=1', [{'host': 'a', 'port': '1'}, {'host': 'b', 'port': '1'}]),
    ('postgresql://me@a:1,b:2/x', [{'host': 'a', 'port': '1', 'user': 'me', 'dbname': 'x'},
                                   {'host': 'b', 'port': '2', 'user': 'me', 'dbname': 'x'}]),
    ('host=a,b,c port=1,2', [{'host': 'a,b,c', 'port': '1,2'}]),  # libpq says what is wrong with it
])
def test_hosts_are_taken_one_by_one(dsn, hosts):
    assert [extensions.parse_dsn(one) for one in one_by_one(extensions, dsn)] == hosts


def test_what_is_given_stays():
    made = extensions.parse_dsn(with_timeouts(extensions, 'host=a connect_timeout=3', application_name='x'))
    assert (made['connect_timeout'], made['application_name']) == ('3', 'x')
    assert made['tcp_user_timeout'] == '20000'


def test_all_hosts_are_tried_and_named_and_a_mute_one_costs_its_time_only():
    with socket.create_server(('127.0.0.1', 0)) as mute, socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        ports = f'{mute.getsockname()[1]},{closed.getsockname()[1]}'
        connector = Connector(REAL, psycopg2, extensions,
                              f'host=127.0.0.1,127.0.0.1 port={ports} user=me connect_timeout=2')
        with pytest.raises(psycopg2.OperationalError, match=r'no answer within 2 s.*; .*refused'):
            connector.connect()
