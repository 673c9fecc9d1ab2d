"""The values besides plain ones that a record may hold when its conflict is resolved (S9).

In: a (module, name) pair that a record names, and what it wants to apply that to.  Out: the value, or an
exception, which makes the conflict a plain one.  The table is fixed; arguments are of exact plain types and
of a size that their own text has.  Of modules that are not Python's own, only those in the table are ever
imported, and only if they are installed.  Loop thread; knows no opcodes.

==================================================  ======================================================
name                                                comes from
==================================================  ======================================================
datetime date, time, datetime, timedelta, timezone  Python
decimal Decimal, fractions Fraction, uuid UUID      Python
builtins set, frozenset, bytes, bytearray, complex  Python; also under the name ``__builtin__``
_codecs encode                                      how protocols 0 to 2 of Python 3 write bytes
zodbpickle binary                                   ZODB for Python 2
pytz _UTC, utc, _p, FixedOffset                     pytz; only offsets that the zone has
DateTime.DateTime DateTime                          Zope
Missing V, MV, Value                                Zope's catalogs; a value, called by nobody
==================================================  ======================================================

``copyreg._reconstructor`` and ``copyreg.__newobj__`` are not values but ways to write them, which `records`
knows.  ``zoneinfo.ZoneInfo`` is not here because no ZODB can store it.
"""
from __future__ import annotations

import datetime
import importlib
import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple
from uuid import UUID

from zeo_clone.zrpc.allowed import MAX_TUPLE_KEYS, key_fault

Args = tuple[Any, ...]

#: Characters of a number that is written as text, and of the name of a time zone.
MAX_DIGITS = 1000
MAX_ZONE = 64

_NUMBER = re.compile(r'[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,6})?|[+-]?Infinity|[+-]?NaN')
_RATIO = re.compile(r'-?\d+(?:/\d+)?')
#: Their hashes can be foreseen, so that only a few of them are keys of one dict or set.
_KEYS = frozenset({datetime.date, datetime.datetime, datetime.time, datetime.timedelta, UUID, Decimal,
                   Fraction})
_OLD_TIME = frozenset({int, float, bool, str, type(None)})


class Maker(NamedTuple):
    """How values of one name are made: by a call, by ``__new__``, and how they take a state.

    What is None is not possible.  `apply` is given the arguments as one tuple.
    """

    call: Callable[[Args], Any] | None = None
    new: Callable[[Args], Any] | None = None
    build: Callable[[Any, Any], None] | None = None


class NotAllowed(Exception):
    """The arguments are not those of the real thing."""


def check_keys(keys: list[Any], present: int) -> None:
    """May `keys` go into a dict or set that has `present` of them?  Nothing is hashed before that is known.
    """
    plain = [key for key in keys if type(key) not in _KEYS]
    fault = key_fault(plain, present)
    if len(plain) < len(keys) and len(keys) + present > MAX_TUPLE_KEYS:
        fault = 'too many dates or numbers as keys'
    if fault:
        raise NotAllowed(fault)


def _of_types(*kinds: type) -> Callable[[Args], bool]:
    return lambda args: tuple(map(type, args)) == kinds


def _temporal(kind: Any) -> Callable[[Args], Any]:
    """Dates and times: their bytes, or whole numbers; then perhaps a time zone."""
    def make(args: Args) -> Any:
        *numbers, zone = args
        if not isinstance(zone, datetime.tzinfo):
            numbers.append(zone)
        if not ({bytes, str}.issuperset(map(type, numbers)) and len(numbers) == 1
                or {int}.issuperset(map(type, numbers))):
            raise NotAllowed('a date of something else')
        return kind(*args)
    return make


def _timezone(args: Args) -> datetime.timezone:
    if not (_of_types(datetime.timedelta)(args) or _of_types(datetime.timedelta, str)(args)):
        raise NotAllowed('a time zone of something else')
    return datetime.timezone(*args)


def _timedelta(args: Args) -> datetime.timedelta:
    if not _of_types(int, int, int)(args):
        raise NotAllowed('a time span of something else')
    return datetime.timedelta(*args)


def _decimal(args: Args) -> Decimal:
    if not _of_types(str)(args) or len(args[0]) > MAX_DIGITS or not _NUMBER.fullmatch(args[0]):
        raise NotAllowed('a decimal number of something else')
    return Decimal(args[0])


def _fraction(args: Args) -> Fraction:
    if _of_types(str)(args):
        if len(args[0]) > MAX_DIGITS or not _RATIO.fullmatch(args[0]):
            raise NotAllowed('a fraction of something else')
    elif not _of_types(int, int)(args):
        raise NotAllowed('a fraction of something else')
    return Fraction(*args)


def _new_uuid(args: Args) -> UUID:
    if args:
        raise NotAllowed('a UUID with arguments')
    return UUID.__new__(UUID)


def _build_uuid(uuid: UUID, state: Any) -> None:
    if (type(state) is not dict or not {int}.issuperset(map(type, state.values()))
            or not 0 <= state['int'] < 1 << 128):
        raise NotAllowed('a UUID that is none')
    uuid.__setstate__(state)  # type: ignore[attr-defined]


def _set_of(kind: Any) -> Callable[[Args], Any]:
    def make(args: Args) -> Any:
        if args and not _of_types(list)(args):
            raise NotAllowed('a set of something that is not a list')
        check_keys(args[0] if args else [], 0)
        return kind(*args)
    return make


def _encode(args: Args) -> bytes:
    if not _of_types(str, str)(args) or args[1] not in ('latin1', 'latin-1'):
        raise NotAllowed('bytes of something else')
    text: str = args[0]
    return text.encode('latin-1')


def _bytes(args: Args) -> bytes:
    if args and not _of_types(bytes)(args):
        raise NotAllowed('bytes of something else')
    return args[0] if args else b''


def _bytearray(args: Args) -> bytearray:
    return bytearray(_encode(args) if len(args) == 2 else _bytes(args))


def _complex(args: Args) -> complex:
    if not _of_types(float, float)(args):
        raise NotAllowed('a complex number of something else')
    return complex(*args)


# -- of packages that may be absent -----------------------------------------------------------------------

def _pytz_utc(args: Args) -> Any:
    if args:
        raise NotAllowed('UTC with arguments')
    return importlib.import_module('pytz').utc


def _pytz_zone(args: Args) -> Any:
    """A zone, or its variant with an offset.  pytz itself would remember any offset for ever."""
    if type(args[0]) is not str or len(args[0]) > MAX_ZONE:
        raise NotAllowed('a time zone without a name')
    zone = importlib.import_module('pytz').timezone(args[0])
    if len(args) == 1:
        return zone
    if not _of_types(str, int, int, str)(args):
        raise NotAllowed('a time zone of something else')
    offset, dst = datetime.timedelta(seconds=args[1]), datetime.timedelta(seconds=args[2])
    return zone._tzinfos[offset, dst, args[3]]


def _pytz_offset(args: Args) -> Any:
    if not _of_types(int)(args):
        raise NotAllowed('an offset of something else')
    return importlib.import_module('pytz').FixedOffset(args[0])


def _new_zope_time(args: Args) -> Any:
    if args:
        raise NotAllowed('a DateTime with arguments')
    kind = importlib.import_module('DateTime.DateTime').DateTime
    return kind.__new__(kind)


def _build_zope_time(time: Any, state: Any) -> None:
    values = state.values() if type(state) is dict else state
    if type(state) not in (dict, tuple) or not _OLD_TIME.issuperset(map(type, values)):
        raise NotAllowed('a DateTime that is none')
    if any(type(value) is str and len(value) > MAX_ZONE for value in values):
        raise NotAllowed('a DateTime with a long text')
    time.__setstate__(state)


def _missing() -> Any:
    return importlib.import_module('Missing').V


_SETS = {'set': Maker(_set_of(set)), 'frozenset': Maker(_set_of(frozenset)), 'bytes': Maker(_bytes),
         'bytearray': Maker(_bytearray), 'complex': Maker(_complex)}

MAKERS: dict[tuple[str, str], Maker] = {
    ('datetime', 'date'): Maker(_temporal(datetime.date)),
    ('datetime', 'time'): Maker(_temporal(datetime.time)),
    ('datetime', 'datetime'): Maker(_temporal(datetime.datetime)),
    ('datetime', 'timedelta'): Maker(_timedelta),
    ('datetime', 'timezone'): Maker(_timezone),
    ('decimal', 'Decimal'): Maker(_decimal),
    ('fractions', 'Fraction'): Maker(_fraction),
    ('uuid', 'UUID'): Maker(new=_new_uuid, build=_build_uuid),
    **{(module, name): maker for module in ('builtins', '__builtin__') for name, maker in _SETS.items()},
    ('_codecs', 'encode'): Maker(_encode),
    ('zodbpickle', 'binary'): Maker(_bytes, _bytes),
    ('pytz', '_UTC'): Maker(_pytz_utc),
    ('pytz', '_p'): Maker(_pytz_zone),
    ('pytz', 'FixedOffset'): Maker(_pytz_offset),
    ('pytz', '_FixedOffset'): Maker(_pytz_offset),
    ('DateTime.DateTime', 'DateTime'): Maker(new=_new_zope_time, build=_build_zope_time),
}

#: Names that are values themselves.
CONSTANTS: dict[tuple[str, str], Callable[[], Any]] = {
    ('Missing', 'V'): _missing, ('Missing', 'MV'): _missing, ('Missing', 'Value'): _missing}
