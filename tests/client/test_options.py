"""Options: a wrong one is an error of the constructor, never a client that tries for ever (N18)."""
from __future__ import annotations

import ssl

import pytest

from zeo_clone.client.arguments import arguments
from zeo_clone.client.options import make_options

CLIENT, SERVER = ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER


def options(addr=('127.0.0.1', 1), storage='1', wait_timeout=None, **keywords):
    return make_options(arguments(addr, storage, wait_timeout=wait_timeout, **keywords))


@pytest.mark.parametrize(('given', 'label'), [
    (None, None), ('', ''), ('instance 1', 'instance 1'), ('x' * 300, 'x' * 100), ('Büro 森', 'Büro 森'),
    ('a\nb\x1b[31m', 'a?b?[31m'), (7, '7'),
    (b'bytes \xc3\xbc', 'bytes ü'), (b'\xff', '�'), ('half \ud800', 'half ?')])
def test_a_label_is_cut_as_a_server_would(given, label):
    """N18, L8."""
    assert options(client_label=given).client_label == label


@pytest.mark.parametrize(('keywords', 'complaint'), [
    ({'storage': 'x' * 256}, 'the name of the storage'),
    ({'storage': 'half \ud800'}, 'the name of the storage'),
    ({'wait_timeout': -1}, 'wait_timeout is -1'), ({'wait_timeout': float('nan')}, 'wait_timeout is nan'),
    ({'wait_timeout': 'soon'}, "wait_timeout is 'soon'"), ({'heartbeat': -1}, 'heartbeat is -1'),
    ({'heartbeat': 1e-6}, 'heartbeat is 1e-06'), ({'heartbeat': []}, None), ({'heartbeat': 'x'}, 'heartbeat'),
    ({'max_disconnect_poll': 'x'}, 'max_disconnect_poll'),
    ({'min_disconnect_poll': -5}, 'max_disconnect_poll is -5'),
    ({'blob_cache_size': -1}, 'blob_cache_size is -1'), ({'blob_cache_size': 'x'}, "blob_cache_size is 'x'"),
    ({'blob_cache_size_check': -1}, 'blob_cache_size_check is -1'),
    ({'blob_cache_size_check': float('inf')}, 'blob_cache_size_check is inf')])
def test_a_bad_value_is_refused_and_named(keywords, complaint):
    """N18."""
    if complaint is None:
        assert options(**keywords).heartbeat_s is None
        return
    with pytest.raises(ValueError, match=complaint):
        options(**keywords)


@pytest.mark.parametrize(('keywords', 'poll_s'), [
    ({'max_disconnect_poll': 0.001}, 0.05), ({'max_disconnect_poll': 7}, 7),
    ({'min_disconnect_poll': 0}, 0.05), ({'max_disconnect_poll': 0, 'min_disconnect_poll': 2}, 2)])
def test_any_pause_is_taken_but_not_for_no_pause(keywords, poll_s):
    """N18: ZEO takes any, and looks at none."""
    assert options(**keywords).max_poll_s == poll_s


def test_for_ever_is_as_long_as_a_lock_can_wait():
    assert options(wait_timeout=float('inf')).wait_timeout_s == 1e9
    assert options(wait_timeout=0).wait_timeout_s == 0


@pytest.mark.parametrize(('addr', 'keywords', 'complaint'), [
    (1, {'ssl': True}, 'it must be an ssl.SSLContext'),
    (1, {'ssl': ssl.SSLContext(SERVER)}, 'no TLS connection to localhost:1 is possible'),
    ('/run/socket', {'ssl': ssl.SSLContext(SERVER)},
     'no TLS connection to /run/socket is possible: .*ssl_server_hostname'),
    (1, {'ssl': ssl.SSLContext(CLIENT), 'ssl_server_hostname': '.x'}, 'no TLS connection'),
    (1, {'ssl': ssl.SSLContext(CLIENT), 'ssl_server_hostname': 'x' * 300}, 'no TLS connection'),
    (1, {'ssl': ssl.SSLContext(CLIENT), 'ssl_server_hostname': 7}, 'no TLS connection')])
def test_tls_that_can_never_work_is_refused(addr, keywords, complaint):
    """N18."""
    with pytest.raises((TypeError, ValueError), match=complaint):
        options(addr, **keywords)


@pytest.mark.parametrize('addr', [1, ('::1', 1), ('127.0.0.1', 1), ('ho_st', 1)])
def test_tls_that_can_work_is_not(addr):
    context = ssl.SSLContext(CLIENT)
    assert options(addr, ssl=context).ssl is context
