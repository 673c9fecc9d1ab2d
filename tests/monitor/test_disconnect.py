"""The page disconnects clients, if its configuration says so, and nobody else's page does."""
from __future__ import annotations

import contextlib
import http.client
import json

import pytest

from tests.monitor.conftest import LIMIT_S, get
from tests.support import inside
from zeo_clone.monitor.monitor import Monitor


def post(address, path, **headers):
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=LIMIT_S)) as connection:
        named = {key.replace('_', '-'): value for key, value in headers.items()}
        connection.request('POST', path, headers=named)
        response = connection.getresponse()
        return response.status, response.read().decode().strip()


@pytest.fixture
def monitor(measured):
    with contextlib.closing(Monitor(('127.0.0.1', 0), disconnect=True)) as monitor:
        monitor.begin(measured)
        yield monitor


@pytest.fixture
def token(monitor):
    return json.loads(get(monitor.address, '/status.json')[2])['token']


@pytest.fixture
def storage(measured, client):
    storage = client(measured.addr, client_label='instance 1')
    storage.ping()  # the server has read its label
    return storage


def test_the_page_disconnects_a_client_and_the_log_says_so(monitor, token, storage, caplog):
    link = inside.link(storage)
    status, text = post(monitor.address, '/disconnect?client=instance+1&storage=1', X_Zeo_Token=token)
    assert status == 200
    assert text.endswith('(instance 1)')
    assert link.channel.buried.wait(LIMIT_S)
    assert 'disconnected by the page, from 127.0.0.1:' in caplog.text


def test_the_same_origin_is_welcome(monitor, token, storage):
    host = f'localhost:{monitor.address[1]}'
    assert post(monitor.address, '/disconnect?client=instance+1', X_Zeo_Token=token, Host=host,
                Origin=f'http://{host}')[0] == 200


@pytest.mark.parametrize('headers', [
    {}, {'X_Zeo_Token': ''}, {'X_Zeo_Token': '0' * 32}, {'X_Zeo_Token': '\xff'}, {'Origin': 'http://evil.example'},
    {'Origin': 'null'}, {'Origin': ''}])
def test_pages_of_other_sites_are_refused(monitor, token, storage, headers):
    """They do not know the token, and could not send it."""
    link = inside.link(storage)
    if 'Origin' in headers:
        headers = {'X_Zeo_Token': token, **headers}
    assert post(monitor.address, '/disconnect?client=instance+1', **headers)[0] == 403
    assert post(monitor.address, '/disconnect?client=instance+1', X_Zeo_Token=token,
                Host='evil.example')[0] == 421
    storage.ping()
    assert inside.link(storage) is link


def test_what_was_not_done_is_told(monitor, token, storage):
    headers = {'X_Zeo_Token': token}
    assert post(monitor.address, '/disconnect?client=nobody', **headers) == (
        409, "no client has the address or label 'nobody'")
    assert post(monitor.address, '/disconnect?client=holder', **headers) == (
        409, 'nobody holds the commit lock')
    assert post(monitor.address, '/disconnect', **headers)[0] == 400
    monitor.stop()
    assert post(monitor.address, '/disconnect?client=x', **headers) == (503, 'stopping')


def test_looking_does_nothing(monitor, token, storage):
    link = inside.link(storage)
    assert get(monitor.address, '/disconnect?client=instance+1', **{'X-Zeo-Token': token})[0] == 405
    storage.ping()
    assert inside.link(storage) is link


def test_without_the_key_there_is_nothing_to_do(ask, measured, new_monitor, storage):
    address = new_monitor(measured).address
    assert json.loads(get(address, '/status.json')[2])['token'] is None
    assert post(address, '/disconnect?client=instance+1')[0] == 405
    assert get(address, '/disconnect')[0] == 404


def test_the_token_does_not_come_into_the_log(monitor, token, storage, caplog):
    caplog.set_level('DEBUG')
    post(monitor.address, '/disconnect?client=x', X_Zeo_Token=token)
    assert token not in caplog.text


def test_every_monitor_has_a_token_of_its_own(measured, monitor, token):
    with contextlib.closing(Monitor(('127.0.0.1', 0), disconnect=True)) as other:
        other.begin(measured)
        assert json.loads(get(other.address, '/status.json')[2])['token'] != token
        assert len(token) == 32
