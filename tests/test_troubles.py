"""What is trouble, by one set of limits."""
from __future__ import annotations

import pytest

from zeo_clone import troubles
from zeo_clone.thresholds import (
    DISK_FULL_BYTES,
    DISK_LOW_BYTES,
    EXPIRES_S,
    HELD_S,
    PACK_S,
    RECENT_S,
    STALLED_S,
    WAITING,
)

HOLDER = {'client': '10.0.0.1:5 (instance 1)', 'seconds': 39.0, 'user': 'jane', 'description': '/site/edit',
          'phase': 'voted'}
BIG, SMALL = 4e12, 1e9
CLIENT = {'address': '10.0.0.1:5', 'label': 'slow', 'queued': 2 << 20, 'stalled': 7.0}


def disk(free, size):
    return {'sizes': {'disks': [{'holds': 'database', 'free': free, 'size': size}]}}


def found(**values):
    """Kind and badness of what is found."""
    return [(trouble.kind, trouble.bad) for trouble in troubles.find({'1': values})]


@pytest.mark.parametrize(('values', 'expected'), [
    ({}, []),
    ({'failed': 'tpc_finish: OSError: broken'}, [('failed', True)]),
    ({'lock_holder': {**HOLDER, 'seconds': HELD_S - 0.001}, 'waiting': 3}, []),
    ({'lock_holder': {**HOLDER, 'seconds': HELD_S}}, [('lock', False)]),
    ({'lock_holder': HOLDER, 'waiting': 1}, [('lock', True)]),
    ({'lock_holder': HOLDER, 'waiting': 9}, [('lock', True)]),
    ({'waiting': WAITING - 1}, []),
    ({'waiting': WAITING}, [('waiting', False)]),
    ({'clients': [{**CLIENT, 'stalled': STALLED_S - 0.1}]}, []),
    ({'clients': [CLIENT]}, [('stalled', False)]),
    (disk(SMALL / 2, SMALL), []),
    (disk(SMALL * 0.04, SMALL), [('disk', False)]),
    (disk(SMALL * 0.009, SMALL), [('disk', True)]),
    (disk(DISK_LOW_BYTES, BIG), []),
    (disk(DISK_LOW_BYTES - 1, BIG), [('disk', False)]),
    (disk(DISK_FULL_BYTES - 1, BIG), [('disk', True)]),
    ({'latest': {'verifications_failed': RECENT_S}}, [('verification', False)]),
    ({'latest': {'verifications_failed': RECENT_S + 1}}, []),
    ({'latest': {'timeouts': 1.0}}, [('timeout', False)]),
    ({'packing': PACK_S - 1}, []),
    ({'packing': PACK_S}, [('pack', False)]),
    ({'memory': 79, 'memory_limit': 100}, []),
    ({'memory': 80, 'memory_limit': 100}, [('memory', False)]),
    ({'latest': {'memory_closed': 1.0, 'turned_away': 1.0}}, [('memory', False), ('connections', False)]),
    ({'all_connections': 79, 'max_connections': 100}, []),
    ({'all_connections': 80, 'max_connections': 100}, [('connections', False)]),
    ({'tls_expires': EXPIRES_S}, []),
    ({'tls_expires': EXPIRES_S - 1}, [('tls', False)]),
    ({'tls_expires': 0.0}, [('tls', True)]),
])
def test_limits_are_those_of_the_log_and_the_rules(values, expected):
    assert found(**values) == expected


def test_who_holds_the_lock_is_named_with_what_to_do():
    """L1"""
    trouble, = troubles.find({'main': {'lock_holder': HOLDER, 'waiting': 3}})
    assert str(trouble) == (
        'storage main: the commit lock has been held for 39 s by 10.0.0.1:5 (instance 1), voted, user jane, '
        '/site/edit; 3 transactions wait')
    assert trouble.advice.endswith('zeo-clone status --disconnect holder frees the lock')


def test_clients_that_do_not_read_are_named_up_to_a_number():
    trouble, = troubles.find({'1': {'clients': [CLIENT] * 5}})
    assert trouble.text == f'{", ".join(["10.0.0.1:5 (slow)"] * 3)} and 2 more: 10.0 MB wait, and nothing ' \
                           'has been read for 7 s'


def test_what_is_bad_comes_first_and_the_server_as_a_whole_is_told_once():
    values = {'all_connections': 9, 'max_connections': 10}
    told = troubles.find({'a': {**values, 'waiting': 4}, 'b': {**values, 'failed': 'tpc_vote: broken'}})
    assert [trouble.where for trouble in told] == ['storage b', 'storage a', 'server']
