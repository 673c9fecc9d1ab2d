"""`rich` and `extensions`: dates, decimals and the like in messages, and in what applications write."""
from __future__ import annotations

import copyreg
import datetime
import pickle
import sys
from decimal import Decimal
from uuid import UUID, uuid1, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB._compat import dumps as zodb_dumps
from ZODB._compat import loads as zodb_loads
from ZODB.Connection import TransactionMetaData

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import extensions, rich
from zeo_clone.zrpc.extensions import read, sendable, storable, to_send
from zeo_clone.zrpc.marshal import ENCODE_ERRORS, Prefix, dumps, loads

UTC = datetime.timezone.utc
SUMMER = datetime.timezone(datetime.timedelta(hours=2), 'MESZ')
DATE = datetime.datetime(2020, 1, 1)
zones = st.sampled_from([None, UTC, SUMMER, datetime.timezone(datetime.timedelta(hours=-5))])
rich_values = st.one_of(
    st.datetimes(timezones=zones, allow_imaginary=True), st.dates(), st.times(timezones=zones),
    st.timedeltas(), st.sampled_from([UTC, SUMMER]), st.decimals(allow_nan=False), st.uuids(),
    st.complex_numbers(allow_nan=False), st.integers(-2 ** 8000, 2 ** 8000))
nested = st.recursive(rich_values, lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple),
    st.dictionaries(st.text(st.characters(exclude_categories=['Cs']), max_size=5), inner, max_size=3)),
    max_leaves=8)


class Thing:
    """A class that no table knows."""

    def __init__(self):
        self.x = 1

    def __repr__(self):
        return f'Thing({"x" * 5000})'


class Bad:
    def __repr__(self):
        raise RuntimeError('no text')


def alike(left, right):
    return type(left) is type(right) and left == right and repr(left) == repr(right)


# ---- rich values in messages ----------------------------------------------------------------------

@given(nested)
def test_rich_values_arrive_as_they_are(value):
    assert alike(loads(dumps((value,), with_rich=True)), (value,))


@given(nested, st.sampled_from(range(pickle.HIGHEST_PROTOCOL + 1)))
def test_rich_values_are_read_as_picklers_write_them(value, protocol):
    """A ZEO server sends them like that.  Before protocol 4 the fold of a time is forgotten."""
    expected = pickle.loads(pickle.dumps((value,), protocol))
    try:
        found = loads(pickle.dumps((value,), protocol))
    except ProtocolError as error:
        assert 'an integer is too long' in str(error) or protocol < 2, error
    else:
        assert alike(found, expected)


def test_both_ends_of_repeated_hours_are_told_apart():
    value = [datetime.datetime(2020, 10, 25, 2, fold=1), datetime.time(2, fold=1), datetime.time(2)]
    assert [time.fold for time in loads(dumps(value, with_rich=True))] == [1, 1, 0]


def test_how_safe_a_uuid_is_and_that_it_occurs_twice_makes_no_difference():
    value = uuid1()
    found = loads(pickle.dumps([value, value], 3))
    assert found == [value, value]
    assert found[0].is_safe is value.is_safe


def test_dates_that_python_2_has_written_are_read():
    data = b'\x80\x02cdatetime\ndatetime\nU\n\x07\xe4\x01\x02\x03\x04\x05\x00\x00\x06\x85R.'
    assert loads(data) == datetime.datetime(2020, 1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize('value', [DATE, DATE.date(), Decimal('1.5'), uuid4(), 1j, 2 ** 255, UTC])
def test_nothing_of_it_is_sent_to_a_peer_that_has_not_asked_for_it(value):
    """ZEO's clients, and older ones of ours, would close the connection."""
    with pytest.raises(ENCODE_ERRORS, match='cannot encode'):
        dumps((value,))


@pytest.mark.parametrize('args', [
    'cdatetime\ndatetime\n(C\x0a\x07\xe4\x0d\x01\0\0\0\0\0\0tR',
    'cdatetime\ndatetime\n(C\x0a\x07\xe4\x01\x00\0\0\0\0\0\0tR',
    'cdatetime\ndatetime\n(C\x0a\x07\xe4\x01\x01\x63\0\0\0\0\0tR',
    'cdatetime\ndatetime\n(C\x09\x07\xe4\x01\x01\0\0\0\0\0tR',
    'cdatetime\ndatetime\n(K\1K\1K\1tR',
    'cdatetime\ndatetime\n(C\x0a\x07\xe4\x01\x01\0\0\0\0\0\0K\1tR',
    'cdatetime\ndatetime\n)R',
    'cdatetime\ndate\n(C\x04\0\0\1\1tR',
    'cdatetime\ntime\n(C\x06\x19\0\0\0\0\0tR',
    'cdatetime\ntimedelta\n(K\1K\1tR',
    'cdatetime\ntimedelta\n(J\xff\xff\xff\x7fK\0K\0tR',
    'cdatetime\ntimedelta\n(G?\xf0\0\0\0\0\0\0K\0K\0tR',
    'cdatetime\ntimezone\n(K\1tR',
    'cdatetime\ntimezone\n)R',
    'cdatetime\ntimezone\n(cdatetime\ntimedelta\n(K\2K\0K\0tRtR',
    'cdecimal\nDecimal\n(X\1\0\0\0xtR',
    'cdecimal\nDecimal\n(K\1tR',
    'cdecimal\nDecimal\n)R',
    'cdecimal\nDecimal\n(X\x1a\0\0\x001e99999999999999999999999tR',
    'cbuiltins\ncomplex\n(K\1K\1tR',
    'cbuiltins\nint\n(X\1\0\0\0gK\x10tR',
    'cbuiltins\nint\n(X\1\0\0\0001K\x0atR',
    'cbuiltins\nint\n(X\1\0\0\0001tR',
    'cuuid\nUUID\n(K\1tR',
    'cuuid\nUUID\n)\x81Nb',
    'cuuid\nUUID\n)\x81}X\3\0\0\0intNsb',
    'cuuid\nUUID\n)\x81}X\3\0\0\0intJ\xff\xff\xff\xffsb',
    'cuuid\nUUID\n)\x81}(X\3\0\0\0intK\1X\7\0\0\0is_safeK\7ub',
])
def test_what_is_no_date_or_number_is_refused(args):
    """S5."""
    with pytest.raises(ProtocolError, match='message refused'):
        loads(b'\x80\x03' + args.encode('latin-1') + b'.')


def test_a_long_number_costs_no_more_than_its_length():
    """S5a."""
    digits = b'X' + (2 * rich.MAX_LARGE_INT + 1).to_bytes(4, 'little') + b'f' * (2 * rich.MAX_LARGE_INT + 1)
    with pytest.raises(ProtocolError):
        loads(b'\x80\x03cbuiltins\nint\n' + digits + b'K\x10\x86R.')
    with pytest.raises(ValueError, match='cannot encode'):
        dumps(1 << 8 * rich.MAX_LARGE_INT, with_rich=True)


@pytest.mark.parametrize('value', [DATE, Decimal(1), 2 ** 255])
def test_they_are_no_keys(value):
    """S5a: nothing is hashed that could be chosen to collide."""
    with pytest.raises(ValueError, match='cannot encode'):
        dumps({value: 1}, with_rich=True)
    with pytest.raises(ProtocolError):
        loads(pickle.dumps({value: 1}, 3))


# ---- extensions -----------------------------------------------------------------------------------

RICH = {'when': DATE, 'sum': Decimal('9.99'), 'id': UUID(int=7), 'n': 10 ** 500, 'c': 1j,
        'plain': [1, b'x', ('y',)], 'seen': datetime.datetime(2024, 7, 1, tzinfo=SUMMER), 'tags': {'a'}}


@given(st.dictionaries(st.text(st.characters(exclude_categories=['Cs']), max_size=5), nested, max_size=4))
def test_harmless_extensions_are_stored_byte_for_byte(extension):
    data = zodb_dumps(extension, 3)
    assert storable(data) is data
    assert alike(read(data), zodb_loads(data))


def test_an_object_of_an_unknown_class_is_named_and_nothing_is_imported(monkeypatch):
    """S1.  The others are read as ever."""
    data = zodb_dumps({'thing': [Thing(), 1], 'n': 2, 'when': DATE}, 3)
    data = data.replace(b'tests.zrpc.', b'gone.zrpc..')
    before = dict(sys.modules)
    expected = {'thing': ['<gone.zrpc..test_extensions.Thing>', 1], 'n': 2, 'when': DATE}
    assert read(data) == expected
    assert storable(data) == expected
    assert dict(sys.modules) == before


def test_objects_of_all_kinds_are_named():
    class Listed(list):
        pass

    class Mapped(dict):
        pass

    for kind in (Listed, Mapped):
        kind.__qualname__, kind.__module__ = kind.__name__, __name__
        globals()[kind.__name__] = kind
    data = zodb_dumps({'l': Listed([1, 2]), 'm': Mapped(a=1), 's': {'x': Thing()}, 'f': None}, 3)
    assert read(data) == {'l': f'<{__name__}.Listed>', 'm': f'<{__name__}.Mapped>',
                          's': {'x': f'<{__name__}.Thing>'}, 'f': None}


@pytest.mark.parametrize('data', [b'nonsense', b'\x80\x03]q\0.', b'\x80\x03N.', zodb_dumps({Thing: 1}, 3)])
def test_an_extension_that_cannot_be_read_is_text(data):
    assert read(data) == {'extension': repr(data)} == storable(data)
    assert read(b'x' * 10_000)['extension'].endswith('xxx...')
    assert len(read(b'x' * 10_000)['extension']) == extensions.MAX_TEXT


@pytest.mark.parametrize('data', [
    b'\x80\x03}X\1\0\0\0acos\nsystem\nX\2\0\0\0idq\0\x85Rs.',
    b'\x80\x03}X\1\0\0\0acbuiltins\neval\nX\1\0\0\0001\x85Rs.',
    b'\x80\x04}\x8c\1a\x8c\x08datetime\x8c\x04date\x93C\x04\x07\xe4\1\1\x85Rs.',
    zodb_dumps({'p': Prefix('/a')}, 3), copyreg.__name__.encode()])
def test_a_pickle_that_a_storage_should_not_read_is_not_stored(data):
    """S9: whatever the storage reads again and again, it makes nothing but plain values."""
    assert type(storable(data)) is dict


def test_items_that_cannot_be_sent_become_text():
    assert sendable(RICH, True) == RICH
    assert sendable({**RICH, 'half': 'a\ud800b'}, False) == {
        'when': 'datetime.datetime(2020, 1, 1, 0, 0)', 'sum': "Decimal('9.99')",
        'id': "UUID('00000000-0000-0000-0000-000000000007')",
        'n': f'<an integer of {(10 ** 500).bit_length()} bits>',
        'c': '1j', 'plain': [1, b'x', ('y',)], 'seen': repr(RICH['seen']), 'tags': {'a'}, 'half': 'a\\ud800b'}
    text = sendable(Thing(), True)
    assert len(text) == extensions.MAX_TEXT
    assert text.startswith('Thing(xxx')
    assert sendable([Bad()], True) == [f'<{__name__}.Bad>']
    assert sendable({Thing: 1, DATE: 2}, True) == {repr(Thing): 1, repr(DATE): 2}


@given(st.recursive(
    st.one_of(rich_values, st.text(max_size=5), st.builds(Bad), st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner, max_size=3),
                            st.dictionaries(st.text(max_size=5), inner, max_size=3))))
def test_what_is_sendable_can_be_sent(value):
    """S3."""
    dumps((sendable(value, True),), with_rich=True)
    dumps((sendable(value, False),))


def test_a_value_that_contains_itself_is_sent_without_end():
    value = []
    value.append(value)
    dumps(sendable(value, True), with_rich=True)


def test_a_transaction_travels_as_its_pickle_or_as_a_dict():
    data = zodb_dumps(RICH, 3)
    for transaction in (TransactionMetaData(b'', b'', RICH), TransactionMetaData(b'', b'', data)):
        assert to_send(transaction, True) == data
        assert to_send(transaction, False) == sendable(RICH, False)
    assert to_send(TransactionMetaData(), True) == to_send(TransactionMetaData(), False) == {}


def test_what_cannot_be_pickled_travels_as_text():
    transaction = TransactionMetaData(b'', b'', {'f': lambda: 0, 'n': 1})
    assert to_send(transaction, True) == {'f': repr(transaction.extension['f']), 'n': 1}


class Bare:
    """A transaction that knows its extension in one form only."""

    def __init__(self, **form):
        vars(self).update(form)


def test_a_transaction_of_another_storage_travels_too():
    """It may have no pickle of its extension; one without anything has none to send."""
    assert to_send(Bare(extension=RICH), True) == zodb_dumps(RICH, 3)
    assert to_send(Bare(extension={}), True) == to_send(Bare(extension_bytes=b''), True) == {}
    assert read(b'') == {}


def test_a_set_of_what_cannot_be_sent_is_sent_as_text():
    """S3."""
    value = {datetime.datetime(2020, 1, 1, tzinfo=Zone())}
    assert sendable(value, True) == repr(value)


class Zone(datetime.tzinfo):
    """One of which messages know nothing."""

    def utcoffset(self, when):
        return datetime.timedelta(0)
