"""Rich values: dates, decimals, UUIDs, complex numbers and large integers.

In: such a value, for the encoder; or what a pickle wants to make one of, for the decoder.  Out: a module, a
name and arguments; or the value.  They cannot contain anything but themselves and are made by functions of
this module, each from arguments whose types it has looked at.  Peers of other makers know none of them, so
they are sent only to one that has said that it takes them.  Pure functions, any thread.
"""
from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

#: Bytes of an integer here: str() still takes it.  Plain ones have 32.
MAX_LARGE_INT = 1024
#: Characters of a decimal and of the name of a time zone: no extension of a FileStorage has more.
MAX_TEXT = 1 << 16
#: What the makers raise for arguments that they cannot have; `decimal`'s are ArithmeticErrors.
ERRORS = (TypeError, ValueError, ArithmeticError, IndexError)
#: Types of such values, besides int.
TYPES = frozenset({datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone,
                   Decimal, complex, uuid.UUID})

_FOLD = 0x80  # a bit of the month of a datetime, or the hour of a time: the second of two equal times
_NAMES: dict[type, tuple[str, str]] = {
    **{kind: ('datetime', kind.__name__) for kind in (datetime.datetime, datetime.date, datetime.time,
                                                      datetime.timedelta, datetime.timezone)},
    Decimal: ('decimal', 'Decimal'), complex: ('builtins', 'complex'), int: ('builtins', 'int')}


def parts(value: Any) -> tuple[str, str, tuple[Any, ...]]:
    """Module, name and arguments, as picklers write them, of a value that is no UUID."""
    if type(value) is complex:
        args: tuple[Any, ...] = value.real, value.imag
    elif type(value) is int:
        args = format(value, 'x'), 16
    else:
        args = value.__reduce_ex__(4)[1]  # of protocol 4, because earlier ones forget the fold
    return (*_NAMES[type(value)], args)


def blank_uuid() -> uuid.UUID:
    """One that waits for its attributes."""
    return uuid.UUID(int=0)


def fill_uuid(value: uuid.UUID, state: object) -> None:
    """Give a blank one the attributes that a pickler wrote.  Raises one of `ERRORS`."""
    if type(state) is not dict or type(state.get('int')) is not int or not 0 <= state['int'] < 1 << 128:
        raise ValueError('no UUID')
    safe = state.get('is_safe')
    if safe is not None and (type(safe) is not int or safe not in (0, -1)):
        raise ValueError('no UUID')
    value.__setstate__({'int': state['int']} if safe is None  # type: ignore[attr-defined]
                       else {'int': state['int'], 'is_safe': safe})


def _state(args: tuple[Any, ...], length: int) -> tuple[bytes, datetime.timezone | None]:
    """The bytes of a date or time; text is what Python 2 has written.  The time zone, if there is one."""
    state, zone = args if len(args) == 2 else (*args, None)
    if type(state) is str:
        state = state.encode('latin-1')
    if type(state) is not bytes or len(state) != length or type(zone) not in (datetime.timezone, type(None)):
        raise ValueError('no date or time')
    return state, zone


def _make_datetime(args: tuple[Any, ...]) -> datetime.datetime:
    state, zone = _state(args, 10)
    day, hour, minute, second = state[3:7]
    return datetime.datetime(state[0] << 8 | state[1], state[2] & ~_FOLD, day, hour, minute, second,
                             int.from_bytes(state[7:], 'big'), zone, fold=state[2] >> 7)


def _make_date(args: tuple[Any, ...]) -> datetime.date:
    state, _ = _state(args, 4)
    return datetime.date(state[0] << 8 | state[1], state[2], state[3])


def _make_time(args: tuple[Any, ...]) -> datetime.time:
    state, zone = _state(args, 6)
    return datetime.time(state[0] & ~_FOLD, state[1], state[2], int.from_bytes(state[3:], 'big'), zone,
                         fold=state[0] >> 7)


def _make_timedelta(args: tuple[Any, ...]) -> datetime.timedelta:
    days, seconds, microseconds = args
    if not type(days) is type(seconds) is type(microseconds) is int:
        raise TypeError('no time span')
    return datetime.timedelta(days, seconds, microseconds)


def _make_timezone(args: tuple[Any, ...]) -> datetime.timezone:
    if type(args[0]) is not datetime.timedelta or len(args) > 2 or not all(
            type(name) is str and len(name) <= MAX_TEXT for name in args[1:]):
        raise TypeError('no time zone')
    return datetime.timezone(*args)


def _make_decimal(args: tuple[Any, ...]) -> Decimal:
    text, = args
    if type(text) is not str or len(text) > MAX_TEXT:
        raise TypeError('no decimal')
    return Decimal(text)


def _make_complex(args: tuple[Any, ...]) -> complex:
    real, imaginary = args
    if not type(real) is type(imaginary) is float:
        raise TypeError('no complex number')
    return complex(real, imaginary)


def _make_int(args: tuple[Any, ...]) -> int:
    digits, base = args
    if type(digits) is not str or len(digits) > 2 * MAX_LARGE_INT or type(base) is not int or base != 16:
        raise TypeError('no integer')
    return int(digits, 16)


#: Module and name -> the function that makes a value of the arguments.
MAKERS: dict[tuple[str, str], Callable[[tuple[Any, ...]], object]] = {
    ('datetime', 'datetime'): _make_datetime, ('datetime', 'date'): _make_date,
    ('datetime', 'time'): _make_time, ('datetime', 'timedelta'): _make_timedelta,
    ('datetime', 'timezone'): _make_timezone, ('decimal', 'Decimal'): _make_decimal,
    ('builtins', 'complex'): _make_complex, ('builtins', 'int'): _make_int,
}
