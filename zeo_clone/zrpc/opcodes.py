"""The parts of the decoder behind its loop: how containers are filled, and the less frequent opcodes.

In: the decoder's stack and the position in the message.  Out: the same, one opcode further, or
`ProtocolError`.  No I/O, any thread.  Text forms (protocol 0), the memo and classes are handled here, so
that the loop in `decoder` stays as short as what peers really send.
"""
from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable
from typing import Any

from ZODB.POSException import UndoError

from zeo_clone.zrpc import rich
from zeo_clone.zrpc.allowed import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    MAX_INT_BYTES,
    MAX_NAME,
    MAX_WAITING,
    Find,
    Foreign,
    Name,
    Prefix,
    bad,
    find_harmless,
    key_fault,
    may_be_made,
)

MAX_MEMO = 100_000          # memo entries, and their numbers
MAX_SHARED = 10_000         # by how many values a message may grow when what it shares is written out
MAX_INT_CHARS = 80          # of an integer written as text
MAX_FLOAT_CHARS = 40        # of a float written as text

_INT_END = 1 << (8 * MAX_INT_BYTES - 1)
_CLASS_DEPTH = 1 << 30      # noted for a container that holds a `Name`: it can only be an argument

LEAVES = frozenset({type(None), bool, int, float, str, bytes, Prefix, UndoError, Foreign}) | rich.TYPES
all_leaves: Callable[[Iterable[type]], bool] = LEAVES.issuperset

Sealed = dict[int, tuple[int, int, object]]    # id -> depth, values when written out, and the container


def seal(values: Iterable[Any], sealed: Sealed, length: int) -> None:
    """Note depth and size of the containers among `values`, which are about to go into another.

    What is inside them was sealed when it went in.  Raises ProtocolError for one too deep or large.
    """
    for value in values:
        kind = type(value)
        if kind in LEAVES or id(value) in sealed:
            continue
        if len(sealed) >= MAX_CONTAINERS:
            raise bad(f'it has more than {MAX_CONTAINERS} containers')
        depth, size = 1, 1
        if kind is Name:
            depth = _CLASS_DEPTH
        elif kind is set or kind is frozenset:
            depth, size = 2, 1 + len(value)
        else:
            inside = value.values() if kind is dict else value
            size = 1 + len(value)
            if not all_leaves(map(type, inside)):
                for item in inside:
                    if type(item) not in LEAVES:
                        item_depth, item_size, _ = sealed[id(item)]
                        depth = max(depth, item_depth + 1)
                        size += item_size
            if depth > MAX_DEPTH:
                raise bad('values are nested too deeply' if depth < _CLASS_DEPTH
                          else 'a class stands where a value should')
            if size > length + MAX_SHARED:
                raise bad('it shares values too often')
        sealed[id(value)] = (depth, size, value)


def extend(target: Any, items: list[Any], sealed: Sealed, length: int) -> None:
    if type(target) is Foreign:
        return
    if type(target) is not list or id(target) in sealed:
        raise bad('it appends to something that is not a list, or is finished')
    if not all_leaves(map(type, items)):
        seal(items, sealed, length)
    target += items


def set_items(target: Any, items: list[Any], sealed: Sealed, length: int) -> None:
    if type(target) is Foreign:
        return
    if type(target) is not dict or id(target) in sealed or len(items) % 2:
        raise bad('it sets items of something that is not a dict, or is finished')
    keys = items[::2]
    fault = key_fault(keys, len(target))
    if fault:
        raise bad(fault)
    values = items[1::2]
    if not all_leaves(map(type, values)):
        seal(values, sealed, length)
    target.update(zip(keys, values, strict=True))


class Machine:
    """The machine as the less frequent opcodes see it; made when the first of them comes."""

    __slots__ = ('content', 'pos', 'stack', 'marks', 'sealed', 'memo', 'budget', 'find', 'max_int')

    def __init__(self, content: bytes, marks: list[list[Any]], sealed: Sealed, find: Find,
                 max_int: int) -> None:
        self.content = content
        self.find = find
        self.max_int = max_int
        self.pos = 0
        self.stack: list[Any] = []
        self.marks = marks
        self.sealed = sealed
        self.memo: dict[int, Any] = {}
        self.budget = len(content)      # of bytes and items that calls may still copy

    def seal(self, values: Iterable[Any]) -> None:
        seal(values, self.sealed, len(self.content))

    def check_result(self, value: Any) -> None:
        """The outermost value is in no container, so it has to be looked at for itself."""
        self.seal((value,))
        if type(value) is Name:
            raise bad('it is a class')

    # -- operands ---------------------------------------------------------------------------------

    def take(self, length: int) -> bytes:
        start = self.pos
        self.pos = start + length
        return self.content[start:self.pos]

    def number(self, length: int) -> int:
        """An unsigned number; a cut one is noticed when the next opcode is missing."""
        return int.from_bytes(self.take(length), 'little')

    def line(self, limit: int | None = None) -> bytes:
        """A text operand, without its newline."""
        start = self.pos
        end = self.content.find(b'\n', start, None if limit is None else start + limit + 1)
        if end < 0:
            raise bad('a line of text is cut off or too long')
        self.pos = end + 1
        return self.content[start:end]

    def push(self, container: object) -> None:
        if len(self.stack) > MAX_WAITING:
            raise bad('too many values wait for their container')
        self.stack.append(container)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # -- memo -------------------------------------------------------------------------------------

    def put(self, number: int) -> None:
        if number >= MAX_MEMO:
            raise bad('a memo number is too large')
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        """What is referred to is finished; a value that goes on growing would contain itself."""
        value = self.memo[number]
        self.seal((value,))
        self.stack.append(value)

    # -- integers, floats and text in the forms of protocols 0 and 1 --------------------------------

    def text_int(self) -> None:
        digits = self.line(MAX_INT_CHARS)
        if digits in (b'00', b'01'):
            self.stack.append(digits == b'01')
        else:
            self.stack.append(_int_of(digits))

    def text_long(self) -> None:
        digits = self.line(MAX_INT_CHARS)
        self.stack.append(_int_of(digits[:-1] if digits[-1:] == b'L' else digits))

    def long4(self) -> None:
        length = self.number(4)
        if length > self.max_int:
            raise bad('an integer is too long')
        self.stack.append(int.from_bytes(self.take(length), 'little', signed=True))

    def text_float(self) -> None:
        text = self.line(MAX_FLOAT_CHARS)
        if not _FLOAT_TEXT.fullmatch(text):
            raise bad('a float is none')
        self.stack.append(float(text))

    def text_string(self) -> None:
        text = self.line()
        quote = text[:1]
        if len(text) < 2 or quote not in (b"'", b'"') or text[-1:] != quote:
            raise bad('a string without quotes')
        self.stack.append(_unescape(text[1:-1]).decode('latin-1'))

    def text_unicode(self) -> None:
        text = self.line().decode('raw-unicode-escape')
        text.encode()                   # raises for half a character
        self.stack.append(text)

    # -- containers ---------------------------------------------------------------------------------

    def make_list(self) -> None:
        items = self.pop_mark()
        self.seal(items)
        self.push(items)

    def make_dict(self) -> None:
        items = self.pop_mark()
        value: dict[Any, Any] = {}
        set_items(value, items, self.sealed, len(self.content))
        self.push(value)

    def empty_set(self) -> None:
        self.push(set())

    def add_items(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        if type(target) is not set or id(target) in self.sealed:
            raise bad('it adds to something that is not a set, or is finished')
        fault = key_fault(items, len(target))
        if fault:
            raise bad(fault)
        target.update(items)

    def make_frozenset(self) -> None:
        items = self.pop_mark()
        fault = key_fault(items, 0)
        if fault:
            raise bad(fault)
        self.push(frozenset(items))

    # -- names: what they may do is in `allowed` ------------------------------------------------------

    def name(self) -> None:
        module = self.line(MAX_NAME).decode()
        self.stack.append(self.find(module, self.line(MAX_NAME).decode()))

    def stack_name(self) -> None:
        if self.find is find_harmless:
            # Others will read it again: what they take for a name must not depend on how they count.
            raise bad('a name that is not written out')
        name = self.stack.pop()
        self.stack.append(self.find(self.stack.pop(), name))

    def reduce(self) -> None:
        args = self.stack.pop()
        called = self.stack.pop()
        if type(called) is not Name or type(args) is not tuple:
            raise bad('it calls something that is not a class of the list')
        value = called.apply(args)
        if type(value) is bytes:
            self.budget -= len(value)
            self.stack.append(value)
        else:
            if isinstance(value, (set, frozenset, dict)):
                self.budget -= 2 * len(value)   # a key takes two bytes or more
            self.push(value)
        if self.budget < 0:
            raise bad('it copies values too often')

    def new(self) -> None:
        called = self.stack[-2]
        if type(called) is not Name or not may_be_made(called):
            raise bad('it makes an object of a class that is not on the list')
        self.reduce()

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Prefix:
            target.set_state(state)
        elif type(target) is uuid.UUID:
            try:
                rich.fill_uuid(target, state)
            except rich.ERRORS:
                raise bad('a UUID that is none') from None
        elif type(target) is not Foreign:
            raise bad('it gives attributes to something that has none')


def _int_of(digits: bytes) -> int:
    if not digits.removeprefix(b'-').isdigit():
        raise bad('an integer is none')
    value = int(digits)
    if not -_INT_END <= value < _INT_END:
        raise bad('an integer is too long')
    return value


_FLOAT_TEXT = re.compile(rb'-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)')
_ESCAPE = re.compile(rb'\\(?:x([0-9a-fA-F]{2})|(.?))', re.DOTALL)
_ESCAPES = {b'n': b'\n', b'r': b'\r', b't': b'\t', b'\\': b'\\', b"'": b"'", b'"': b'"'}


def _unescape(text: bytes) -> bytes:
    def replace(match: re.Match[bytes]) -> bytes:
        return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPES[match[2]]
    return _ESCAPE.sub(replace, text)


def _sized(size: int, decode: Callable[[bytes], Any]) -> Callable[[Machine], None]:
    """The handler of a string that follows its length of `size` bytes."""
    def handler(machine: Machine) -> None:
        machine.stack.append(decode(machine.take(machine.number(size))))
    return handler


def _latin1(text: bytes) -> str:
    return text.decode('latin-1')


def _skip_frame(machine: Machine) -> None:
    """FRAME only says how far to read ahead."""
    machine.pos += 8


#: Opcode -> handler.  Not here: what makes objects in ways no plain value needs (INST, OBJ, EXT1, ...),
#: what takes values back from the stack (POP, DUP), and buffers.
REST: dict[int, Callable[[Machine], None]] = {
    ord('U'): _sized(1, _latin1),               # SHORT_BINSTRING
    ord('T'): _sized(4, _latin1),               # BINSTRING
    ord('S'): Machine.text_string,
    ord('V'): Machine.text_unicode,
    ord('I'): Machine.text_int,
    ord('L'): Machine.text_long,
    ord('F'): Machine.text_float,
    ord('l'): Machine.make_list,
    ord('d'): Machine.make_dict,
    ord('q'): lambda machine: machine.put(machine.number(1)),
    ord('r'): lambda machine: machine.put(machine.number(4)),
    ord('p'): lambda machine: machine.put(_int_of(machine.line(MAX_INT_CHARS))),
    ord('h'): lambda machine: machine.get(machine.number(1)),
    ord('j'): lambda machine: machine.get(machine.number(4)),
    ord('g'): lambda machine: machine.get(_int_of(machine.line(MAX_INT_CHARS))),
    0x94: lambda machine: machine.put(len(machine.memo)),       # MEMOIZE
    0x95: _skip_frame,
    0x8b: Machine.long4,
    0x8c: _sized(1, bytes.decode),              # SHORT_BINUNICODE
    0x8d: _sized(8, bytes.decode),              # BINUNICODE8
    0x8e: _sized(8, bytes),                     # BINBYTES8
    0x8f: Machine.empty_set,
    0x90: Machine.add_items,
    0x91: Machine.make_frozenset,
    ord('c'): Machine.name,                     # GLOBAL
    0x93: Machine.stack_name,                   # STACK_GLOBAL
    ord('R'): Machine.reduce,
    0x81: Machine.new,                          # NEWOBJ
    ord('b'): Machine.build,
}
