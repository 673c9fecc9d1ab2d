"""S9: values of a record are made of exact plain arguments of a bounded size, or not at all."""
from __future__ import annotations

import datetime
import sys

import pytest
import pytz

from zeo_clone.server.backend.constructors import CONSTANTS, MAKERS, MAX_DIGITS, MAX_ZONE, NotAllowed
from zeo_clone.server.backend.resolvable import Resolvable

HOUR = datetime.timedelta(hours=1)


@pytest.mark.parametrize(('name', 'args'), [
    ('datetime timezone', ('CET',)), ('datetime timezone', (HOUR, b'CET')), ('datetime timezone', ()),
    ('datetime timedelta', (1, 2)), ('datetime timedelta', (1.0, 2, 3)), ('datetime date', (2020.0, 1, 1)),
    ('decimal Decimal', (5,)), ('decimal Decimal', ('1' * (MAX_DIGITS + 1),)),
    ('decimal Decimal', ('1e9999999',)),
    ('fractions Fraction', ('1' * (MAX_DIGITS + 1),)), ('fractions Fraction', ('1e9',)),
    ('fractions Fraction', (1.5,)), ('fractions Fraction', (1, 2, 3)),
    ('builtins complex', ('1',)), ('builtins complex', (1, 2)), ('builtins set', ((1,),)),
    ('builtins bytes', (1 << 40,)), ('builtins bytearray', (1 << 40,)), ('_codecs encode', ('x', 'zlib')),
    ('zodbpickle binary', (9,)), ('pytz _UTC', (1,)), ('pytz _p', (5,)), ('pytz _p', ('x' * (MAX_ZONE + 1),)),
    ('pytz _p', ('Europe/Paris', '3600', 0, 'CET')), ('pytz _p', ('Europe/Paris', 3600)),
    ('pytz FixedOffset', ('60',)), ('pytz FixedOffset', ()),
])
def test_arguments_of_another_kind_make_nothing(name, args):
    """S9: nor do they cost more than to look at them."""
    with pytest.raises(NotAllowed):
        MAKERS[tuple(name.split(' '))].call(args)


@pytest.mark.parametrize(('name', 'args', 'value'), [
    ('builtins complex', (1.0, 2.0), 1 + 2j), ('builtins bytearray', ('ab', 'latin-1'), bytearray(b'ab')),
    ('datetime timezone', (HOUR, 'CET'), datetime.timezone(HOUR, 'CET')), ('pytz _UTC', (), pytz.utc),
    ('pytz FixedOffset', (60,), pytz.FixedOffset(60)),
    ('pytz _p', ('Europe/Paris',), pytz.timezone('Europe/Paris')),
])
def test_those_of_the_real_thing_make_it(name, args, value):
    """S9."""
    assert MAKERS[tuple(name.split(' '))].call(args) == value


def test_a_zone_has_only_the_offsets_that_it_has():
    """S9: pytz would remember any other for ever."""
    make = MAKERS['pytz', '_p'].call
    assert make(('Europe/Paris', 3600, 0, 'CET')).utcoffset(datetime.datetime(2020, 1, 1)) == HOUR
    with pytest.raises(KeyError):
        make(('Europe/Paris', 3601, 0, 'CET'))


@pytest.fixture
def zope(tmp_path, monkeypatch):
    """Zope's two packages, as far as they matter here."""
    (tmp_path / 'DateTime').mkdir()
    (tmp_path / 'DateTime' / '__init__.py').write_text('')
    (tmp_path / 'DateTime' / 'DateTime.py').write_text(
        'class DateTime:\n    def __setstate__(self, state): self.state = state\n')
    (tmp_path / 'Missing.py').write_text('V = "missing"\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in 'DateTime', 'DateTime.DateTime', 'Missing':
        sys.modules.pop(name, None)


def test_zope_times_take_states_of_plain_values(zope):
    """S9."""
    maker = MAKERS['DateTime.DateTime', 'DateTime']
    time = maker.new(())
    for state in {'_micros': 5, '_tz': 'CET'}, (1.5, True, None, 'x' * MAX_ZONE):
        maker.build(time, state)
        assert time.state == state
    for state in [1], {'_micros': [5]}, ({},), {'_tz': 'x' * (MAX_ZONE + 1)}, None:
        with pytest.raises(NotAllowed):
            maker.build(time, state)
    with pytest.raises(NotAllowed):
        maker.new(('2020/01/01',))
    assert CONSTANTS['Missing', 'V']() == 'missing'


class OwnWay:
    """One that takes its state itself."""

    def __setstate__(self, state):
        self.seen = state


class Plain:
    """One whose state is a dict."""


def test_values_of_allowed_classes_take_their_state_as_unpicklers_give_it():
    """S9: by their own method, or as attributes with names; anything else is refused."""
    maker = Resolvable([f'{__name__}.OwnWay', f'{__name__}.Plain']).maker
    own = maker(__name__, 'OwnWay')
    value = own.new(())
    own.build(value, [1, 2])
    assert value.seen == [1, 2]
    plain = maker(__name__, 'Plain')
    value = plain.new(())
    plain.build(value, ({'a': 1}, {'b': 2}))
    assert vars(value) == {'a': 1, 'b': 2}
    for state in [1], {1: 2}, ({}, [1]), 'text':
        with pytest.raises(NotAllowed, match='state that is no dict'):
            plain.build(value, state)
