"""Checks of arguments."""
from __future__ import annotations

import pytest

from zeo_clone.server.clients import arguments
from zeo_clone.server.vocabulary import BadArgument


class Trap:
    """Something that notices being looked at more closely."""

    def _touched(self, *_):
        raise AssertionError('the value was touched before its type was known')

    __eq__ = __hash__ = __len__ = __repr__ = __str__ = __iter__ = __bool__ = __int__ = _touched


CHECKS = [arguments.oid, arguments.oids, arguments.serial, arguments.optional_tid, arguments.data,
          arguments.record,
          arguments.transaction_id, arguments.text, arguments.name, arguments.flag, arguments.count,
          arguments.seconds, arguments.extension, arguments.status, arguments.undo_id,
          arguments.specification, arguments.ids]


@pytest.mark.parametrize('check', CHECKS)
@pytest.mark.parametrize('value', [Trap(), (), [[]], 1j, {1: 2}.keys(), 1 << 200, 'x' * 300])
def test_what_nobody_should_send_is_refused_or_returned_untouched(check, value):
    """S5a: nothing is hashed, compared or formatted before its type is known."""
    try:
        result = check(value)
    except BadArgument as error:
        assert len(str(error)) < 200
    else:
        assert type(result) in (str, bytes, int, bool, list)


@pytest.mark.parametrize('value, result', [
    (b'12345678', b'12345678'),
    ('12345678', b'12345678'),
    ('\xff' * 8, b'\xff' * 8),
])
def test_oids_are_8_bytes_also_as_text_of_old_clients(value, result):
    """S5a."""
    assert arguments.oid(value) == result


@pytest.mark.parametrize('value', [b'', b'1234567', b'123456789', '1234567', '\u0100' * 8, None, 7,
                                   bytearray(8), [0] * 8])
def test_everything_else_is_no_oid(value):
    """S5a."""
    with pytest.raises(BadArgument, match='8 bytes expected'):
        arguments.oid(value)


@pytest.mark.parametrize('value', [b'', b'1234567', bytes(8001), bytes(8008), '12345678', [bytes(8)], None])
def test_oids_are_some_but_not_too_many(value):
    """S5a, S5b."""
    with pytest.raises(BadArgument, match='1 to 1000 oids'):
        arguments.oids(value)
    assert arguments.oids(bytes(8000)) == bytes(8000)


def test_a_new_object_may_have_no_serial():
    assert arguments.serial(None) == bytes(8)


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -1, 1 << 41, '1', None, True])
def test_a_time_is_a_finite_number(value):
    with pytest.raises(BadArgument):
        arguments.seconds(value)


@pytest.mark.parametrize('value', ['p', b'p', ' '])
def test_a_status_is_one_character(value):
    assert arguments.status(value) in ('p', ' ')


@pytest.mark.parametrize('value', ['', 'pp', '\xe9', 7])
def test_everything_else_is_no_status(value):
    with pytest.raises(BadArgument):
        arguments.status(value)
