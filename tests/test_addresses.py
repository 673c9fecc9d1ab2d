from __future__ import annotations

import pathlib

import pytest

from zeo_clone.addresses import format_address, parse_address, parse_addresses


@pytest.mark.parametrize(('given', 'address'), [
    (9100, (None, 9100)),
    ('9100', (None, 9100)),
    (':9100', (None, 9100)),
    ('0', (None, 0)),
    ('65535', (None, 65535)),
    ('localhost:9100', ('localhost', 9100)),
    ('127.0.0.1:0', ('127.0.0.1', 0)),
    ('[::1]:9100', ('::1', 9100)),
    (('localhost', 9100), ('localhost', 9100)),
    (('::1', 9100), ('::1', 9100)),
    ((None, 9100), (None, 9100)),
    (('', 9100), (None, 9100)),
    ('/run/zeo.sock', '/run/zeo.sock'),
    ('./zeo.sock', './zeo.sock'),
    ('/srv/host:9100', '/srv/host:9100'),
    (pathlib.Path('/run/zeo.sock'), '/run/zeo.sock'),
])
def test_address_has_one_normal_form(given, address):
    assert parse_address(given) == address
    assert parse_address(address) == address


@pytest.mark.parametrize(('given', 'reason'), [
    ('localhost', 'the port is missing'),
    ('', 'the port is missing'),
    ('localhost:', 'the port is a number from 0 to 65535'),
    ('localhost:http', 'the port is a number from 0 to 65535'),
    ('localhost:-1', 'the port is a number from 0 to 65535'),
    ('localhost:65536', 'the port is a number from 0 to 65535'),
    ('localhost:' + '9' * 10_000, 'the port is a number from 0 to 65535'),
    ('localhost:٣', 'the port is a number from 0 to 65535'),
    (65536, 'the port is a number from 0 to 65535'),
    (-1, 'the port is a number from 0 to 65535'),
    (True, 'the port is a number from 0 to 65535'),
    (('localhost', '9100'), 'the port is a number from 0 to 65535'),
    ('::1:9100', 'an IPv6 address goes between brackets'),
    ('[localhost]:9100', 'no IPv6 address between the brackets'),
    ('http://localhost:9100', 'not an address'),
    ('/run/\0', 'not an address'),
    (None, 'not an address'),
    (b'localhost:9100', 'not an address'),
    (('localhost',), 'not an address'),
    ((1, 2), 'not an address'),
])
def test_bad_address_is_repeated_with_reason_and_what_is_allowed(given, reason):
    with pytest.raises(ValueError) as caught:
        parse_address(given)
    text = str(caught.value)
    assert text.startswith(f'bad address {given!r}'[:200])
    assert reason in text
    assert text.endswith(
        'allowed: PORT, HOST:PORT, [IPv6]:PORT or the PATH of a unix socket, with a / in it')
    assert len(text) < 500


@pytest.mark.parametrize(('given', 'addresses'), [
    (9100, [(None, 9100)]),
    (('localhost', 9100), [('localhost', 9100)]),
    ('/run/zeo.sock', ['/run/zeo.sock']),
    ([('a', 1), 'b:2', '/c'], [('a', 1), ('b', 2), '/c']),
    ((('a', 1), ('b', 2)), [('a', 1), ('b', 2)]),
    (('a:1', 'b:2'), [('a', 1), ('b', 2)]),
    ((1, 2), [(None, 1), (None, 2)]),
    (['a:1', ('a', 1)], [('a', 1)]),
])
def test_one_address_or_several_become_a_list(given, addresses):
    assert parse_addresses(given) == addresses


@pytest.mark.parametrize('given', [[], (), ['a:1', 'b']])
def test_no_address_or_a_bad_one_among_several_is_refused(given):
    with pytest.raises(ValueError, match='bad address'):
        parse_addresses(given)


def test_a_port_that_is_text_is_told_in_a_pair():
    """And not that 'localhost' has no port."""
    with pytest.raises(ValueError, match=r"\('localhost', '9100'\): the port of a pair is a number, not"):
        parse_addresses(('localhost', '9100'))


@pytest.mark.parametrize('text', ['9100', 'localhost:9100', '[::1]:9100', '/run/zeo.sock'])
def test_address_as_text_can_be_parsed_again(text):
    assert format_address(parse_address(text)) == text
