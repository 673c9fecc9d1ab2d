r"""Shapes: messages of one form each, written and read without a pickler.

In and out: messages and their bytes; sans-I/O.  A shape is told once, as the message that it stands for, with
fields in the places of what differs::

    Shape(NUMBER, False, 'vote', (NUMBER,))

Its bytes are a pickle (protocol 3, without memo), constants and fields in turn::

    80 03 ( J  field  \x89 X \4\0\0\0 vote J  field  \x85 t .

A message has the shape if it is equal in value and in type wherever there is no field; bytes have it if every
byte that is not a field's is the same.  To all else a shape answers None: that is for the pickler.

Sites exchange ten thousands of them in a second.  So each shape gets two functions such as one would write by
hand, made from it when it is made (as `dataclasses` does); their source is their docstring::

    help(messages.STORE.encode)
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple

#: A message: id, flag, name, args.
Message = tuple[Any, int, str, Any]
#: Picklers write longer lists in parts.
MAX_ITEMS = 1000

pack_number = Struct('<i').pack
pack_size = Struct('<I').pack
_pack_long = Struct('<q').pack
_each_eight = Struct('8s2x').iter_unpack  # with the opcode of the next one


class Field(NamedTuple):
    """A place in a shape for any value of its type."""

    type: type
    #: Comes before it.
    opcode: bytes
    #: Its format for a `Struct`, or that of its size.
    code: str
    #: Python for a value ``{0}``: what else is to be true of it; its bytes, or its size and its bytes.
    fits: str
    put: str


NUMBER = Field(int, b'J', 'i', '', 'pack_number({0})')
LONG_NUMBER = Field(int, b'\x8a\x08', 'q', '', '_pack_long({0})')
#: An oid, a tid.
EIGHT = Field(bytes, b'C\x08', '8s', ' and len({0}) == 8', '{0}')
BYTES = Field(bytes, b'B', 'I', '', 'pack_size(len({0})), {0}')
#: A list of values of 8 bytes, not empty.
EIGHTS = Field(list, b'](C\x08', '', ' and _are_eights({0})', "b'C\\x08'.join({0})")


def _are_eights(value: list[Any]) -> bool:
    return 0 < len(value) <= MAX_ITEMS and set(map(type, value)) == {bytes} and set(map(len, value)) == {8}


def read_eights(data: bytes) -> list[bytes]:
    """What is in a field of `EIGHTS`.  Raises ``struct.error``."""
    if len(data) == 8:
        return [data]
    count, odd = divmod(len(data) + 2, 10)
    items = data + b'C\x08'
    if odd or not 0 < count <= MAX_ITEMS or items[8::10] != b'C' * count or items[9::10] != b'\x08' * count:
        raise struct_error
    return [item for item, in _each_eight(items)]


class Shape:
    """A message; its id is a constant or `NUMBER`.  The value of a call are its arguments."""

    def __init__(self, message_id: Any, flag: int, name: str, value: Any) -> None:
        self.name = name
        self.is_numbered = message_id is NUMBER
        #: Of its values.
        self.type = value.type if type(value) is Field else type(value)
        #: What is before, between and behind the fields.
        self.constants = [b'\x80\x03']
        fields: list[Field] = []
        for code in _codes((message_id, flag, name, value)):
            if isinstance(code, Field):
                fields.append(code)
                self.constants.append(b'e' if code is EIGHTS else b'')
            else:
                self.constants[-1] += code
        self.constants[-1] += b'.'
        #: All its bytes, for ``%`` and what is put into the fields.
        self.template = _quoted(self.constants[0]) + b''.join(
            (b'%b%b' if field is BYTES else b'%b') + _quoted(constant)
            for field, constant in zip(fields, self.constants[1:], strict=True))
        runs = list(_runs(self.constants, fields))
        #: Of all its bytes; None: it differs.
        self.size = runs[0].struct.size if len(runs) == 1 else None
        #: ``encode(id, value)``: the bytes of this message, if it has this shape.
        self.encode = _encoder(self.template, message_id, value)
        #: ``decode(content)``: the message that has these bytes, if they have this shape.
        self.decode = _decoder(runs, (message_id, int(flag), name, value))

    def __repr__(self) -> str:
        return f'<Shape {self.name} {self.template!r}>'


class Run:
    """Constants and fields in turn, up to a field whose size is not fixed, or to the end; read at once."""

    def __init__(self, constants: list[bytes], codes: list[str], field: Field | None) -> None:
        self.struct = Struct('<' + ''.join(codes))
        self.parts = len(codes)
        self.constants = tuple(constants)
        self.field = field  # BYTES, whose size comes last here, or EIGHTS


def _runs(constants: list[bytes], fields: list[Field]) -> Iterator[Run]:
    some, codes = [constants[0]], [f'{len(constants[0])}s']
    for field, constant in zip(fields, constants[1:], strict=True):
        codes += [field.code] if field.code else []
        if field is BYTES or field is EIGHTS:
            yield Run(some, codes, field)
            some, codes = [], []
        some.append(constant)
        codes.append(f'{len(constant)}s')
    yield Run(some, codes, None)


def _codes(pattern: Any) -> Iterator[bytes | Field]:
    """How a pickle puts it: fields, and the opcodes between them."""
    if type(pattern) is Field:
        yield pattern.opcode
        yield pattern
    elif type(pattern) in (tuple, list, dict):
        before, between, behind = _marks(type(pattern), len(pattern))
        yield before
        for item in pattern:
            yield from _codes(item)
            if type(pattern) is dict:
                yield from _codes(pattern[item])
            yield between
        yield behind
    elif type(pattern) is str:
        yield b'X%b%b' % (pack_size(len(pattern)), pattern.encode('ascii'))
    elif type(pattern) is int:
        yield b'K%c' % pattern
    else:
        yield {None: b'N', False: b'\x89', True: b'\x88'}[pattern]


def _marks(kind: type, count: int) -> tuple[bytes, bytes, bytes]:
    """What a pickle has before, between and behind so many items."""
    if kind is list:
        return b']', b'a', b''
    if kind is dict:
        return (b'}', b's', b'') if count < 2 else (b'}(', b'', b'u')
    return (b'', b'', b')\x85\x86\x87'[count:count + 1]) if count < 4 else (b'(', b'', b't')


def _quoted(constant: bytes) -> bytes:
    return constant.replace(b'%', b'%%')


# ---- functions made of a shape --------------------------------------------------------------------

def _encoder(template: bytes, message_id: Any, value: Any) -> Callable[[Any, Any], bytes | None]:
    conditions, puts = [], []
    for pattern, place in (*_walk(message_id, 'id'), *_walk(value, 'value')):
        conditions.append(_condition(pattern).format(place))
        if type(pattern) is Field:
            puts.append(pattern.put.format(place))
    encode: Callable[[Any, Any], bytes | None] = _function('encode(id, value)', [
        'try:',
        f'    if {" and ".join(conditions)}:',
        f'        return template % ({", ".join(puts)},)',
        'except struct_error:',  # a number, or a size, is too large
        '    pass',
        'return None'], template=template)
    return encode


def _walk(pattern: Any, place: str) -> Iterator[tuple[Any, str]]:
    """All that is in a pattern, outer things first; each with Python for the same place in a value."""
    yield pattern, place
    if type(pattern) in (tuple, list, dict):
        for key, item in pattern.items() if type(pattern) is dict else enumerate(pattern):
            yield from _walk(item, f'{place}[{key!r}]')


def _condition(pattern: Any) -> str:
    """What is true of a value ``{0}`` that is like this; what is in it has conditions of its own."""
    if type(pattern) is Field:
        return f'type({{0}}) is {pattern.type.__name__}{pattern.fits}'
    if type(pattern) is dict:
        return f'type({{0}}) is dict and list({{0}}) == {list(pattern)}'
    if pattern is None:
        return '{0} is None'
    compared = f'len({{0}}) == {len(pattern)}' if type(pattern) in (tuple, list) else f'{{0}} == {pattern!r}'
    return f'type({{0}}) is {type(pattern).__name__} and {compared}'


def _decoder(runs: list[Run], message: Any) -> Callable[[bytes], Message | None]:
    lines, fields = ['at = 0'], []
    known: dict[str, Any] = {}
    for number, run in enumerate(runs):
        known |= {f'read_{number}': run.struct.unpack_from, f'constants_{number}': run.constants}
        names = [f'part_{number}_{place}' for place in range(run.parts)]
        fields += names[1::2]
        lines += [f'{", ".join(names)}, = read_{number}(content, at)',
                  f'if ({", ".join(names[::2])},) != constants_{number}:',
                  '    return None',
                  f'at += {run.struct.size}']
        if run.field is BYTES:
            lines += [f'{fields[-1]} = content[at:at + {fields[-1]}]',
                      f'at += len({fields[-1]})']
        elif run.field is EIGHTS:
            fields.append('eights')
            lines += [f'eights = read_eights(content[at:len(content) - {runs[-1].struct.size}])',
                      'at += 10 * len(eights) - 2']
    decode: Callable[[bytes], Message | None] = _function('decode(content)', [
        'try:',
        *('    ' + line for line in lines),
        'except struct_error:',  # it ends too early
        '    return None',
        f'return {_expression(message, iter(fields))} if at == len(content) else None'],
        **known)
    return decode


def _expression(pattern: Any, names: Iterator[str]) -> str:
    if type(pattern) is Field:
        return next(names)
    if type(pattern) is dict:
        items = ''.join(f'{key!r}: {_expression(item, names)}, ' for key, item in pattern.items())
        return f'{{{items}}}'
    if type(pattern) in (tuple, list):
        items = ''.join(_expression(item, names) + ', ' for item in pattern)
        return f'({items})' if type(pattern) is tuple else f'[{items}]'
    return repr(pattern)


def _function(head: str, lines: list[str], **known: Any) -> Any:
    """A function with this body, which is its docstring, too."""
    source = '\n    '.join([f'def {head}:', *lines])
    names = {**globals(), **known}
    exec(source, names)  # what is in a shape, and nothing that has been received
    function = names[head.partition('(')[0]]
    function.__doc__ = source
    return function
