"""Values <-> the bytes of one message: `dumps` and `loads`, the only place where the two meet.

In: a value made of None, bool, int, float, str, bytes, tuple, list, dict, set, frozenset, Prefix and, for a
peer that takes them, those of `rich`.  Out: a pickle of protocol 3 without memo, byte for byte what ZEO sends
for the same value; and back (`loads`, see `decoder`).  No I/O, no state, any thread.  Python's own pickler is
not used: it would call what objects bring with them.  This module knows no message kinds and no exceptions;
`faults` describes the exceptions that old clients expect as pickles with `Global` and `Call`.
"""
from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Any
from uuid import UUID

from zeo_clone.zrpc import rich
from zeo_clone.zrpc.allowed import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_INT_BYTES,
    MAX_WAITING,
    Prefix,
    key_fault,
)
from zeo_clone.zrpc.decoder import MAX_OPCODES, loads
from zeo_clone.zrpc.opcodes import LEAVES, all_leaves

__all__ = ['ENCODE_ERRORS', 'Call', 'Encoded', 'Global', 'ListEncoder', 'Prefix', 'dumps', 'loads']

#: What `dumps` raises.
ENCODE_ERRORS = (TypeError, ValueError)

_BATCH = 1000           # items of a list or dict per MARK, as picklers have it

_u4 = Struct('<I').pack
_s4 = Struct('<i').pack
_f8 = Struct('>d').pack
_SHORT_BYTES = [b'C' + bytes((n,)) for n in range(256)]
_SHORT_INT = [b'K' + bytes((n,)) for n in range(256)]
_TUPLE = {1: b'\x85', 2: b'\x86', 3: b'\x87'}
_ONLY_BYTES = {bytes}
_ONLY_OIDS = {8}


class Global:
    """What is sent as the name of a class or function.  `loads` never returns one."""

    __slots__ = ('module', 'name')

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __repr__(self) -> str:
        return f'Global({self.module}.{self.name})'


class Call:
    """What is sent as the call of a `Global`, which the receiver's unpickler makes.  See `Global`."""

    __slots__ = ('function', 'args')

    def __init__(self, function: Global, args: tuple[Any, ...]) -> None:
        self.function = function
        self.args = args

    def __repr__(self) -> str:
        return f'Call({self.function!r}, {self.args!r})'


class Encoded:
    """A value that is encoded already, to be sent as a message's last: `pieces` of bytes."""

    __slots__ = ('pieces',)

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces


class ListEncoder:
    """Encodes a list, some items at a time, by whoever has the time for it; never wholly in one piece."""

    def __init__(self, with_rich: bool = False) -> None:
        self._out: type[list[bytes]] = _ForRich if with_rich else list
        self._pieces = [b']']
        self._open: list[bytes] = []  # the batch that is not whole yet
        self._in_batch = 0
        self.count = 0
        self.size = 1  # bytes
        self.values = 0  # as `dumps` counts them: what has more than `MAX_OPCODES` our clients refuse

    def add(self, item: Any) -> None:
        """Append one item.  Raises as `dumps`; then nothing more can be made of this list."""
        out = self._out([b'('] if not self._in_batch else [])
        _put((item,), out, 1)
        self._open += out
        self.count += 1
        self.values += len(out)
        self.size += sum(map(len, out))
        self._in_batch += 1
        if self._in_batch == _BATCH:
            self._close_batch()

    def extend(self, items: list[Any]) -> None:
        """Append many, faster if they are oids."""
        self._close_batch()
        for start in range(0, len(items), _BATCH):
            out: list[bytes] = []
            _put_batch(items[start:start + _BATCH], out, 1)
            self._pieces.append(b''.join(out))
            self.values += len(out)
            self.size += len(self._pieces[-1])
        self.count += len(items)

    def _close_batch(self) -> None:
        if self._in_batch:
            self._pieces.append(b''.join((*self._open, b'e')))
            self._open.clear()
            self._in_batch = 0
            self.size += 1

    def encoded(self, *before: Any) -> Encoded:
        """The list; or the tuple of one or two values and the list."""
        self._close_batch()
        if not before:
            return Encoded(self._pieces)
        head: list[bytes] = []
        _put(before, head, 1)
        return Encoded([b''.join(head), *self._pieces, _TUPLE[len(before) + 1]])


class _WithClasses(list[bytes]):
    """The parts of a message in which `Global` and `Call` are welcome."""


class _ForRich(list[bytes]):
    """The parts of a message in which `rich` values are welcome."""


def dumps(value: object, exceptions: bool = False, with_rich: bool = False) -> bytes:
    """The message that carries `value`; with `exceptions`, also what ``faults.z4_error`` returns; with
    `with_rich`, also values of `rich`.

    Raises TypeError for a value of a class that messages cannot carry and ValueError for one that is too
    deep, too large or not text; both say "cannot encode".  What is returned, `loads` accepts, unless
    `exceptions` let it contain a `Global`.
    """
    out: list[bytes] = _WithClasses() if exceptions else _ForRich() if with_rich else []
    out.append(b'\x80\x03')
    try:
        _put((value,), out, 0)
    except struct_error:
        raise ValueError('cannot encode: bytes or text of 4 GB or more') from None
    if len(out) > MAX_CONTAINERS and _containers(value) >= MAX_CONTAINERS:
        raise ValueError(f'cannot encode: more than {MAX_CONTAINERS} containers')
    out.append(b'.')
    return b''.join(out)


def _containers(value: Any) -> int:
    """How many containers the receiver will count; asked only for a message that may have too many."""
    kind = type(value)
    if kind is tuple or kind is list:
        return 1 + sum(map(_containers, value))
    if kind is dict:
        return 1 + sum(map(_containers, value)) + sum(map(_containers, value.values()))
    if kind is set or kind is frozenset:
        return 3 + sum(map(_containers, value))
    return 0 if kind in LEAVES else 3


def _put(values: Any, out: list[bytes], depth: int) -> None:
    """Append the opcodes of `values`.  Exact types only: a subclass may have other contents (S1)."""
    for value in values:
        kind = type(value)
        if kind is bytes:
            size = len(value)
            out.append(_SHORT_BYTES[size] if size < 256 else b'B' + _u4(size))
            out.append(value)
        elif kind is str:
            text = _encode(value)
            out.append(b'X' + _u4(len(text)))
            out.append(text)
        elif kind is int:
            if 0 <= value < 256:
                out.append(_SHORT_INT[value])
            else:
                _put_integer(value, out, depth)
        elif value is None:
            out.append(b'N')
        elif kind is bool:
            out.append(b'\x88' if value else b'\x89')
        elif kind is tuple:
            _put_tuple(value, out, depth + 1)
        elif kind is float:
            out.append(b'G' + _f8(value))
        else:
            _put_other(kind, value, out, depth + 1)


def _put_integer(value: int, out: list[bytes], depth: int) -> None:
    if type(out) is _ForRich and value.bit_length() >= 8 * MAX_INT_BYTES:
        _put_rich(value, out, depth)
    else:
        out.append(_integer(value))


def _put_rich(value: Any, out: list[bytes], depth: int) -> None:
    if type(value) is UUID:
        out.append(b'cuuid\nUUID\n)\x81')
        _put_dict({'int': value.int}, out, depth)
        out.append(b'b')
        return
    if type(value) is int and value.bit_length() >= 8 * rich.MAX_LARGE_INT:
        raise ValueError(f'cannot encode: an integer of more than {rich.MAX_LARGE_INT} bytes')
    module, name, args = rich.parts(value)
    out.append(f'c{module}\n{name}\n'.encode())
    _put_tuple(args, out, depth + 1)
    out.append(b'R')


def _put_tuple(value: tuple[Any, ...], out: list[bytes], depth: int) -> None:
    size = len(value)
    if not size:
        out.append(b')')
        return
    _check(out, depth)
    if size > MAX_WAITING and not all_leaves(map(type, value)):
        raise ValueError(f'cannot encode: a tuple of more than {MAX_WAITING} items, not all plain')
    if size > 3:
        out.append(b'(')
    _put(value, out, depth)
    out.append(_TUPLE.get(size, b't'))


def _put_other(kind: type, value: Any, out: list[bytes], depth: int) -> None:
    _check(out, depth)
    if kind is list:
        _put_list(value, out, depth)
    elif kind is dict:
        _put_dict(value, out, depth)
    elif kind is set or kind is frozenset:
        _check_keys(value)
        out.append(b'cbuiltins\n%s\n' % kind.__name__.encode())
        _put_list(list(value), out, depth)
        out.append(b'\x85R')
    elif kind is Global and type(out) is _WithClasses:
        out.append(f'c{value.module}\n{value.name}\n'.encode())
    elif kind is Call and type(out) is _WithClasses:
        _put((value.function, value.args), out, depth)
        out.append(b'R')
    elif kind in rich.TYPES and type(out) is _ForRich:
        _put_rich(value, out, depth)
    else:
        _put_instance(kind, value, out, depth)


def _put_instance(kind: type, value: Any, out: list[bytes], depth: int) -> None:
    """Objects of the two classes that applications send: as what they are, whoever defined the class."""
    title = f'{kind.__module__}.{kind.__qualname__}'
    if kind is Prefix:
        path = value.path.split('/')
    elif title == 'ZopeUndo.Prefix.Prefix':
        path = list(vars(value).get('path') or ())
    elif issubclass(kind, bytes) and title == 'zodbpickle.binary':
        _put((bytes(value),), out, depth)
        return
    else:
        raise TypeError(f'cannot encode an object of class {title[:200]}')
    out.append(b'cZopeUndo.Prefix\nPrefix\n)\x81')
    _put_dict({'length': len(path), 'path': path}, out, depth)
    out.append(b'b')


def _put_list(value: list[Any], out: list[bytes], depth: int) -> None:
    out.append(b']')
    if len(value) == 1:
        _put(value, out, depth)
        out.append(b'a')
        return
    for start in range(0, len(value), _BATCH):
        _put_batch(value[start:start + _BATCH], out, depth)


def _put_batch(batch: list[Any], out: list[bytes], depth: int) -> None:
    """Append the opcodes that extend a list."""
    out.append(b'(')
    if (type(batch[0]) is bytes and set(map(type, batch)) == _ONLY_BYTES
            and set(map(len, batch)) == _ONLY_OIDS):
        out.append(b'C\x08' + b'C\x08'.join(batch))
    else:
        _put(batch, out, depth)
    out.append(b'e')


def _put_dict(value: dict[Any, Any], out: list[bytes], depth: int) -> None:
    _check_keys(value)
    out.append(b'}')
    items = list(value.items())
    if len(items) == 1:
        _put(items[0], out, depth)
        out.append(b's')
        return
    for start in range(0, len(items), _BATCH):
        out.append(b'(')
        for item in items[start:start + _BATCH]:
            _put(item, out, depth)
        out.append(b'u')


def _check(out: list[bytes], depth: int) -> None:
    """Bounds what a value that contains itself, or shares much, can cost before it is refused."""
    if depth > MAX_DEPTH:
        raise ValueError(f'cannot encode: values are nested more than {MAX_DEPTH} deep')
    if len(out) > MAX_OPCODES:
        raise ValueError(f'cannot encode: more than {MAX_OPCODES} values')


def _check_keys(keys: Any) -> None:
    fault = key_fault(keys, 0)
    if fault:
        raise ValueError(f'cannot encode: {fault}')


def _encode(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise ValueError('cannot encode: text with half characters (surrogates)') from None


def _integer(value: int) -> bytes:
    """An integer that is not one unsigned byte."""
    if 0 <= value < 65536:
        return b'M' + value.to_bytes(2, 'little')
    if -0x80000000 <= value < 0x80000000:
        return b'J' + _s4(value)
    size = (value.bit_length() >> 3) + 1
    if value < 0 and value == -1 << (8 * size - 9):
        size -= 1               # a power of two fits without a byte for its sign
    if size > MAX_INT_BYTES:
        raise ValueError(f'cannot encode: an integer of more than {MAX_INT_BYTES} bytes')
    return b'\x8a' + bytes((size,)) + value.to_bytes(size, 'little', signed=True)
