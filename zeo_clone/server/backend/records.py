"""Bytes of a record -> its class and its state: a decoder of our own, for the resolution of conflicts (S9).

In: a record, as any client may have stored it, and a function that knows which names may be used.  Out: a
`Record`, or `Refused`, which makes the conflict a plain one.  Loop thread; no I/O of its own.  It never uses
an unpickler, imports nothing and calls nothing but what `find` hands out.  It does not know which classes may
resolve.

It is a machine over the opcodes of protocols 0 to 3, which are those that ZODB reads and writes.  What makes
it safe also makes it fast, however a record was prepared:

* every bound is a constant below, and each is far above what a record that resolves can have;
* nothing is hashed before its exact type is known (`check_keys`);
* a value that is referred to again (GET) never changes any more, so that no value contains itself, and is
  charged with its size when it is written out: comparing or copying the state takes as long as its length
  says, even if it shares everything;
* a persistent reference becomes ZODB's own `PersistentReference`.  The object is not loaded and the class
  that it names not imported: it stays a pair of texts, as ZODB itself has it for one that is not installed;
* the name of a class is a `Name` that can be called or instantiated, but is never part of a value.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct
from typing import Any, NamedTuple

from zeo_clone.server.backend.constructors import CONSTANTS, Maker, NotAllowed, check_keys
from zeo_clone.server.backend.family import MAX_NAME, Family, Name, Refused

MAX_SIZE = 16 << 20         # bytes of a record
MAX_OPCODES = 200_000
MAX_CONTAINERS = 50_000     # tuples, lists, dicts, sets, dates and objects
MAX_DEPTH = 100             # containers in containers
MAX_MEMO = 100_000          # memo numbers
MAX_INT_BYTES = 1024
MAX_INT_CHARS = 400         # of an integer written as text
MAX_SHARED = 1000           # besides its length: values that a record may share, written out
_TEXT_SHIFT = 4             # characters of a text that count as one value, as a power of two
_NAMED = 1 << 20            # added to the depth of a container that holds a `Name`: it can only be arguments

_u4 = Struct('<I').unpack_from
_s4 = Struct('<i').unpack_from
_f8 = Struct('>d').unpack_from
_FLOAT = re.compile(rb'-?(?:\d+\.?\d*(?:e[+-]?\d+)?|inf|nan)')
_ESCAPE = re.compile(rb'\\(?:x([0-9a-fA-F]{2})|(.?))', re.DOTALL)
_ESCAPES = {b'n': b'\n', b'r': b'\r', b't': b'\t', b'\\': b'\\', b"'": b"'", b'"': b'"'}
_ATOMS = frozenset({type(None), bool, int, float})
_RECONSTRUCTOR = {('copyreg', '_reconstructor'), ('copy_reg', '_reconstructor')}
_NEWOBJ = {('copyreg', '__newobj__'), ('copy_reg', '__newobj__')}
_OBJECT = {('builtins', 'object'), ('__builtin__', 'object')}

class Record(NamedTuple):
    """The class that a record names, the arguments for its ``__new__`` and the state.

    `form` is how the class was written, with `Name` in the place of a class; ZODB knows several ways.
    """

    form: Any
    name: tuple[str, str]
    args: tuple[Any, ...]
    state: Any


def read(record: bytes, family: Family) -> Record:
    """The class and the state of `record`.  Raises `Refused`."""
    reader = _Reader(record, family)
    try:
        form, name, args = reader.read_class()
        return Record(form, name, args, reader.read_pickle())
    except Refused:
        raise
    except NotAllowed as error:
        raise Refused(f'it has {error}') from None
    except Exception as error:  # what is cut off, or of a wrong type, and what real constructors say
        raise Refused(f'it cannot be read: {type(error).__name__}: {str(error)[:200]}') from error


def class_of(record: bytes) -> tuple[str, str]:
    """The (module, name) of a record's class.  Raises `Refused`."""
    try:
        return _Reader(record, Family(lambda module, name: None)).read_class()[1]
    except Refused:
        raise
    except Exception as error:
        raise Refused(f'it cannot be read: {type(error).__name__}') from error


class _Reader:
    """The machine.  The memo is that of both pickles of a record."""

    def __init__(self, record: bytes, family: Family) -> None:
        if len(record) > MAX_SIZE:
            raise Refused(f'it has more than {MAX_SIZE} bytes')
        self.record = record
        self.family = family
        self.pos = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.left = MAX_OPCODES
        self.shared = len(record) + MAX_SHARED
        # id -> depth, size written out, and the container, which keeps the id its own
        self.weights: dict[int, tuple[int, int, Any]] = {}
        self.finished: set[int] = set()          # ids of containers that were referred to again
        self.unbuilt: dict[int, Maker] = {}      # ids of objects that may get a state

    # -- pickles ------------------------------------------------------------------------------------

    def read_class(self) -> tuple[Any, tuple[str, str], tuple[Any, ...]]:
        """The first pickle: a class, or one with arguments, or the two texts of an old record's."""
        form = self.read_pickle(named=True)
        if type(form) is Name:
            return form, form.pair, ()
        if type(form) is tuple and len(form) == 2:
            kind, args = form
            if type(kind) is Name and (args is None or type(args) is tuple):
                return form, kind.pair, args or ()
            if type(kind) is tuple and tuple(map(type, kind)) == (str, str) and (
                    args is None or type(args) is tuple):
                return form, self.family.name(*kind).pair, args or ()
        raise Refused('its class is none')

    def read_pickle(self, named: bool = False) -> Any:
        """The next pickle's value; with `named` it may be or contain a `Name`."""
        self.stack, self.marks = [], []
        record, memo = self.record, self.memo
        pos = self.pos
        while (op := record[pos]) != 0x2e:
            self.left -= 1
            if self.left < 0:
                raise Refused(f'it has more than {MAX_OPCODES} opcodes')
            pos += 1
            if op == 0x71:                                          # q  BINPUT, after every second value
                memo[record[pos]] = self.stack[-1]
                pos += 1
                continue
            if op == 0x58:                                          # X  BINUNICODE
                start = pos + 4
                pos = start + _u4(record, pos)[0]
                self.stack.append(record[start:pos].decode('utf-8', 'surrogatepass'))
                continue
            handler = _HANDLERS.get(op)
            if handler is None:
                raise Refused(f'opcode {op:#04x} at byte {pos - 1} is not one of a state')
            self.pos = pos
            handler(self)
            pos = self.pos
        self.pos = pos + 1
        if self.marks or len(self.stack) != 1:
            raise Refused('it does not end with one value')
        value = self.stack.pop()
        if not named and self._weigh((value,))[0] >= _NAMED:
            raise Refused('a class stands where a value should')
        return value

    # -- weights ------------------------------------------------------------------------------------

    def _weigh(self, items: Any) -> tuple[int, int]:
        """Depth and size, written out, of a container of `items`."""
        depth = size = 0
        for item in items:
            kind = type(item)
            size += 1
            if kind is str or kind is bytes:
                size += len(item) >> _TEXT_SHIFT
            elif kind is Name:
                depth = max(depth, _NAMED)
            elif kind not in _ATOMS:
                item_depth, item_size, _ = self.weights.get(id(item), _LIGHT)
                depth = max(depth, item_depth)
                size += item_size
        if depth % _NAMED >= MAX_DEPTH:
            raise Refused('values are nested too deeply')
        return depth + 1, size

    def _push(self, container: Any, items: Any = ()) -> None:
        """Push something made of `items`."""
        if len(self.weights) >= MAX_CONTAINERS:
            raise Refused(f'it has more than {MAX_CONTAINERS} containers')
        self.weights[id(container)] = (*self._weigh(items), container)
        self.stack.append(container)

    def _grow(self, container: Any, items: Any) -> None:
        """`items` have gone, or are about to go, into `container`."""
        if id(container) in self.finished:
            raise Refused('a value contains itself')
        depth, size, _ = self.weights[id(container)]
        more_depth, more_size = self._weigh(items)
        self.weights[id(container)] = max(depth, more_depth), size + more_size, container

    # -- operands -----------------------------------------------------------------------------------

    def _take(self, length: int) -> bytes:
        start = self.pos
        self.pos = start + length
        if self.pos > len(self.record):
            raise Refused('it is cut off')
        return self.record[start:self.pos]

    def skip(self, length: int) -> None:
        self._take(length)

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), 'little')

    def _line(self, limit: int) -> bytes:
        start = self.pos
        self.pos = self.record.index(b'\n', start, start + limit + 1) + 1
        return self.record[start:self.pos - 1]

    def _pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    # -- plain values -------------------------------------------------------------------------------

    def bin_int(self) -> None:
        self.stack.append(_s4(self._take(4))[0])

    def bin_float(self) -> None:
        self.stack.append(_f8(self._take(8))[0])

    def long(self, width: int) -> None:
        length = self._number(width)
        if length > MAX_INT_BYTES:
            raise Refused('an integer is too long')
        self.stack.append(int.from_bytes(self._take(length), 'little', signed=True))

    def text_int(self) -> None:
        digits = self._line(MAX_INT_CHARS)
        self.stack.append(digits == b'01' if digits in (b'00', b'01') else _int(digits))

    def text_long(self) -> None:
        self.stack.append(_int(self._line(MAX_INT_CHARS).removesuffix(b'L')))

    def text_float(self) -> None:
        text = self._line(MAX_INT_CHARS)
        if not _FLOAT.fullmatch(text):
            raise Refused('a float is none')
        self.stack.append(float(text))

    def text_string(self) -> None:
        text = self._line(len(self.record))
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
            raise Refused('a string without quotes')
        self.stack.append(_ESCAPE.sub(_unescape, text[1:-1]).decode('ascii'))

    def text_unicode(self) -> None:
        self.stack.append(self._line(len(self.record)).decode('raw-unicode-escape'))

    # -- containers ---------------------------------------------------------------------------------

    def mark(self) -> None:
        if len(self.marks) > MAX_DEPTH:
            raise Refused('values are nested too deeply')
        self.marks.append(self.stack)
        self.stack = []

    def make_tuple(self, length: int) -> None:
        items = tuple(self.stack[-length:])
        if len(items) != length:
            raise Refused('an opcode lacks its operands')
        del self.stack[-length:]
        self._push(items, items)

    def tuple_of_all(self) -> None:
        items = tuple(self._pop_mark())
        self._push(items, items)

    def list_of_all(self) -> None:
        items = self._pop_mark()
        self._push(items, items)

    def dict_of_all(self) -> None:
        items = self._pop_mark()
        self._push({})
        self._set(items)

    def append(self) -> None:
        self._extend([self.stack.pop()])

    def appends(self) -> None:
        self._extend(self._pop_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise Refused('it appends to something that is not a list')
        self._grow(target, items)
        target += items

    def set_item(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def set_items(self) -> None:
        self._set(self._pop_mark())

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise Refused('it sets items of something that is not a dict')
        keys = items[::2]
        check_keys(keys, len(target))
        self._grow(target, items)
        target.update(zip(keys, items[1::2], strict=True))

    # -- memo ---------------------------------------------------------------------------------------

    def put(self, number: int) -> None:
        if number >= MAX_MEMO:
            raise Refused('a memo number is too large')
        self.memo[number] = self.stack[-1]

    def get(self, number: int) -> None:
        value = self.memo[number]
        self.shared -= self._weigh((value,))[1]
        if self.shared < 0:
            raise Refused('it shares values too often')
        if id(value) in self.weights:
            self.finished.add(id(value))
        self.stack.append(value)

    # -- names and objects --------------------------------------------------------------------------

    def name(self) -> None:
        module = self._line(MAX_NAME).decode()
        name = self._line(MAX_NAME).decode()
        constant = CONSTANTS.get((module, name))
        self.stack.append(self.family.name(module, name) if constant is None else constant())

    def reduce(self) -> None:
        args = self.stack.pop()
        called = self.stack.pop()
        if type(called) is not Name or type(args) is not tuple:
            raise Refused('it calls something that is not a name')
        if called.pair in _RECONSTRUCTOR:
            kind, base, state = args
            if type(base) is not Name or base.pair not in _OBJECT or state is not None:
                raise Refused('it makes an object in an unusual way')
            self._make(kind, (), new=True)
        elif called.pair in _NEWOBJ:
            self._make(args[0], args[1:], new=True)
        else:
            self._make(called, args, new=False)

    def new_object(self) -> None:
        args = self.stack.pop()
        self._make(self.stack.pop(), args, new=True)

    def _make(self, called: Any, args: Any, new: bool) -> None:
        if type(called) is not Name or type(args) is not tuple:
            raise Refused('it makes an object of something that is not a class')
        maker = self.family.find(*called.pair)
        make = maker and (maker.new if new else maker.call)
        if maker is None or make is None:
            raise Refused(f'it holds a {called.pair[0]}.{called.pair[1]}', called.pair)
        if self._weigh(args)[0] > _NAMED:
            raise Refused('a class stands where a value should')
        value = make(args)
        if type(value) is bytes:
            self.stack.append(value)
            return
        self._push(value, args)
        if maker.build is not None:
            self.unbuilt[id(value)] = maker

    def old_object(self) -> None:
        kind, *args = self._pop_mark()
        self._make(kind, tuple(args), new=not args)

    def old_instance(self) -> None:
        args = tuple(self._pop_mark())
        self.name()
        self._make(self.stack.pop(), args, new=not args)

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        maker = self.unbuilt.pop(id(target), None)
        if maker is None or maker.build is None:
            raise Refused('it gives a state to something that has none')
        self._grow(target, (state,))
        if self.weights[id(target)][0] >= _NAMED:
            raise Refused('a class stands where a value should')
        maker.build(target, state)

    def refer(self) -> None:
        self.stack.append(self.family.reference(self.stack.pop()))


_LIGHT = (0, 1, None)       # the weight of what is no container: references, constants


def _int(digits: bytes) -> int:
    if not digits.removeprefix(b'-').isdigit():
        raise Refused('an integer is none')
    return int(digits)


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPES[match[2]]


def _pushing(value: Any) -> Callable[[_Reader], None]:
    return lambda reader: reader.stack.append(value)


def _sized(width: int, decode: Callable[[bytes], Any]) -> Callable[[_Reader], None]:
    """The handler of a text or bytes after its length of `width` bytes."""
    return lambda reader: reader.stack.append(decode(reader._take(reader._number(width))))


def _ascii(text: bytes) -> str:
    """Strings of Python 2 are read as ZODB reads them."""
    return text.decode('ascii')


#: Opcode -> handler, besides the two in the loop.  Not here: what takes values back from the stack (POP,
#: DUP), extension codes, and references as a line of text.
_HANDLERS: dict[int, Callable[[_Reader], None]] = {
    ord('N'): _pushing(None), 0x88: _pushing(True), 0x89: _pushing(False),
    ord('K'): lambda reader: reader.stack.append(reader._number(1)),
    ord('M'): lambda reader: reader.stack.append(reader._number(2)),
    ord('J'): _Reader.bin_int, ord('G'): _Reader.bin_float,
    0x8a: lambda reader: reader.long(1), 0x8b: lambda reader: reader.long(4),
    ord('I'): _Reader.text_int, ord('L'): _Reader.text_long, ord('F'): _Reader.text_float,
    ord('S'): _Reader.text_string, ord('V'): _Reader.text_unicode,
    ord('C'): _sized(1, bytes), ord('B'): _sized(4, bytes),
    ord('U'): _sized(1, _ascii), ord('T'): _sized(4, _ascii),
    ord('('): _Reader.mark,
    ord(')'): lambda reader: reader._push(()), 0x85: lambda reader: reader.make_tuple(1),
    0x86: lambda reader: reader.make_tuple(2), 0x87: lambda reader: reader.make_tuple(3),
    ord('t'): _Reader.tuple_of_all,
    ord(']'): lambda reader: reader._push([]), ord('l'): _Reader.list_of_all,
    ord('a'): _Reader.append, ord('e'): _Reader.appends,
    ord('}'): lambda reader: reader._push({}), ord('d'): _Reader.dict_of_all,
    ord('s'): _Reader.set_item, ord('u'): _Reader.set_items,
    ord('r'): lambda reader: reader.put(reader._number(4)),
    ord('p'): lambda reader: reader.put(_int(reader._line(MAX_INT_CHARS))),
    ord('h'): lambda reader: reader.get(reader._number(1)),
    ord('j'): lambda reader: reader.get(reader._number(4)),
    ord('g'): lambda reader: reader.get(_int(reader._line(MAX_INT_CHARS))),
    0x80: lambda reader: reader.skip(1),
    ord('c'): _Reader.name,
    ord('R'): _Reader.reduce, 0x81: _Reader.new_object, ord('b'): _Reader.build,
    ord('o'): _Reader.old_object, ord('i'): _Reader.old_instance,
    ord('Q'): _Reader.refer,
}
