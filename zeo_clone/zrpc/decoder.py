"""Bytes of one message -> one value: a restricted decoder of pickles.

In: the content of a frame.  Out: a value made of None, bool, int, float, str, bytes, tuple, list, dict,
set, frozenset, `Prefix` and those of `rich`, or `ProtocolError`.  No I/O, no state between messages, any
thread.  It is a machine of its own over the opcodes of protocols 0 to 5, without those that such a value
never needs; it never uses Python's unpicklers, imports nothing that a message names and calls nothing but the
functions of `allowed` (S1).  It does not know what a message means.

Whatever the bytes are, time and memory stay within a small multiple of their length (S5, S5a):

* a length that was announced is never believed: slices end where the content ends, and the next opcode
  is then missing;
* nothing can be built faster than one value per opcode, and opcodes are counted;
* containers that go into other containers are *sealed*: their depth is noted and they never change
  again.  So no value contains itself, and how large a value is when it is walked is known even if it is
  shared many times.

Strings of Python 2 (STRING, BINSTRING) are decoded as latin-1 text.
"""
from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from struct import error as struct_error
from typing import Any

from zeo_clone.zrpc.allowed import MAX_DEPTH, MAX_INT_BYTES, MAX_WAITING, Find, bad, find
from zeo_clone.zrpc.opcodes import LEAVES, REST, Machine, Sealed, all_leaves, extend, seal, set_items

MAX_OPCODES = 1_000_000     # not counting runs of oids; an undo log of 50,000 transactions has as many

#: Opcodes between two pauses of `loads_in_parts`: about a millisecond.
PART = 2500
_RUN = 1024                 # oids taken at once
_HIGHEST_PROTOCOL = 5

_u4 = Struct('<I').unpack_from
_s4 = Struct('<i').unpack_from
_f8 = Struct('>d').unpack_from
_oids = Struct('2x8s').iter_unpack


def loads(content: bytes | bytearray | memoryview, find: Find = find, max_int: int = MAX_INT_BYTES) -> Any:
    """The value of a message.  Raises `ProtocolError` for everything that is not one (S5).

    Give it bytes: other types are copied first.  For other pickles than messages there may be another list of
    names, and integers of `max_int` bytes.
    """
    parts = loads_in_parts(content if type(content) is bytes else bytes(content), MAX_OPCODES, find, max_int)
    try:
        while True:
            next(parts)
    except StopIteration as end:
        return end.value


def loads_in_parts(content: bytes, most: int, find: Find = find, max_int: int = MAX_INT_BYTES
                   ) -> Generator[None, None, Any]:
    """`loads` of at most `most` opcodes for whoever has little time: a generator that returns the value, with
    a pause after each `PART`."""
    try:
        return (yield from _decode(content, most, find, max_int))
    except (IndexError, struct_error):
        raise bad('it is cut off, or an opcode lacks its operands') from None
    except KeyError:
        raise bad('it refers to something that it does not contain') from None
    except UnicodeError:
        raise bad('it contains text that is not') from None


def _decode(content: bytes, most: int, find: Find, max_int: int) -> Generator[None, None, Any]:
    """The loop.  One long chain, most frequent opcodes first: its order is its speed."""
    pos = 2 if content[0] == 0x80 and content[1] <= _HIGHEST_PROTOCOL else 0
    stack: list[Any] = []
    marks: list[list[Any]] = []
    sealed: Sealed = {}
    rest: Machine | None = None
    for start_of_part in range(0, most, PART):
        if start_of_part:
            yield
        for _ in range(min(PART, most - start_of_part)):
            op = content[pos]
            pos += 1
            if op == 0x43:                                          # C  SHORT_BINBYTES
                start = pos + 1
                pos = start + content[pos]
                stack.append(content[start:pos])
            elif op == 0x4b:                                        # K  BININT1
                stack.append(content[pos])
                pos += 1
            elif op == 0x58:                                        # X  BINUNICODE
                start = pos + 4
                pos = start + _u4(content, pos)[0]
                stack.append(content[start:pos].decode())
            elif op == 0x28:                                        # (  MARK
                if len(marks) > MAX_DEPTH:
                    raise bad('values are nested too deeply')
                marks.append(stack)
                stack = []
                if content[pos + 30:pos + 32] in (b'C\x08', b'U\x08'):
                    pos = _take_oids(content, pos, stack)
            elif op == 0x74:                                        # t  TUPLE
                items = stack
                stack = marks.pop()
                if not all_leaves(map(type, items)):
                    seal(items, sealed, len(content))
                stack.append(tuple(items))
            elif op == 0x86:                                        #    TUPLE2
                item = stack.pop()
                value: Any = (stack[-1], item)
                if not all_leaves(map(type, value)):
                    seal(value, sealed, len(content))
                stack[-1] = value
            elif op == 0x85:                                        #    TUPLE1
                value = (stack[-1],)
                if type(value[0]) not in LEAVES:
                    seal(value, sealed, len(content))
                stack[-1] = value
            elif op == 0x4e:                                        # N  NONE
                stack.append(None)
            elif op == 0x89:                                        #    NEWFALSE
                stack.append(False)
            elif op == 0x2e:                                        # .  STOP
                if marks or len(stack) != 1 or pos != len(content):
                    raise bad('it does not end with its one value')
                if rest is not None:
                    rest.check_result(stack[0])
                return stack[0]
            elif op == 0x8a:                                        #    LONG1
                start = pos + 1
                pos = start + content[pos]
                if pos - start > max_int:
                    raise bad('an integer is too long')
                stack.append(int.from_bytes(content[start:pos], 'little', signed=True))
            elif op == 0x87:                                        #    TUPLE3
                item = stack.pop()
                middle = stack.pop()
                value = (stack[-1], middle, item)
                if not all_leaves(map(type, value)):
                    seal(value, sealed, len(content))
                stack[-1] = value
            elif op == 0x42:                                        # B  BINBYTES
                start = pos + 4
                pos = start + _u4(content, pos)[0]
                stack.append(content[start:pos])
            elif op == 0x88:                                        #    NEWTRUE
                stack.append(True)
            elif op == 0x7d:                                        # }  EMPTY_DICT
                if len(stack) > MAX_WAITING:
                    raise bad('too many values wait for their container')
                stack.append({})
            elif op == 0x29:                                        # )  EMPTY_TUPLE
                stack.append(())
            elif op == 0x5d:                                        # ]  EMPTY_LIST
                if len(stack) > MAX_WAITING:
                    raise bad('too many values wait for their container')
                stack.append([])
            elif op == 0x4d:                                        # M  BININT2
                stack.append(content[pos] | content[pos + 1] << 8)
                pos += 2
            elif op == 0x75:                                        # u  SETITEMS
                items = stack
                stack = marks.pop()
                set_items(stack[-1], items, sealed, len(content))
            elif op == 0x65:                                        # e  APPENDS
                items = stack
                stack = marks.pop()
                extend(stack[-1], items, sealed, len(content))
            elif op == 0x73:                                        # s  SETITEM
                item = stack.pop()
                items = [stack.pop(), item]
                set_items(stack[-1], items, sealed, len(content))
            elif op == 0x61:                                        # a  APPEND
                items = [stack.pop()]
                extend(stack[-1], items, sealed, len(content))
            elif op == 0x4a:                                        # J  BININT
                stack.append(_s4(content, pos)[0])
                pos += 4
            elif op == 0x47:                                        # G  BINFLOAT
                stack.append(_f8(content, pos)[0])
                pos += 8
            else:
                if rest is None:
                    rest = Machine(content, marks, sealed, find, max_int)
                handler = REST.get(op)
                if handler is None:
                    raise bad(f'opcode {op:#04x} at byte {pos - 1} is not allowed')
                rest.pos = pos
                rest.stack = stack
                handler(rest)
                pos = rest.pos
                stack = rest.stack
    raise bad(f'it has more than {most} opcodes')


def _take_oids(content: bytes, pos: int, stack: list[Any]) -> int:
    """Push the run of 8-byte strings at `pos`, as lists of oids have them; the position after it.

    All opcodes are alike there, ten bytes apart, so that they are counted and cut without a loop.  A
    last one that is cut off makes the struct refuse the run.
    """
    op = content[pos:pos + 1]
    while True:
        ops = content[pos:pos + 10 * _RUN:10]
        lengths = content[pos + 1:pos + 10 * _RUN:10]
        count = min(len(ops) - len(ops.lstrip(op)), len(lengths) - len(lengths.lstrip(b'\x08')))
        if op == b'C':
            stack += [oid for oid, in _oids(content[pos:pos + 10 * count])]
        elif op == b'U':
            stack += [oid.decode('latin-1') for oid, in _oids(content[pos:pos + 10 * count])]
        else:
            return pos
        pos += 10 * count
        if count < _RUN:
            return pos
