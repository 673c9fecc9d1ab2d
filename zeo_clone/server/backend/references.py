"""Which objects a record refers to: what a pack asks of each record (S10).

In: a record, as any client may have stored it.  Out: the oids of its ordinary references, in their order,
as ``ZODB.serialize.referencesf`` finds them; or `UnreadableRecord`, which ends a pack before it has removed
anything.  Pure, any thread.

A machine that goes through the opcodes of protocols 0 to 5 and makes no object: of each value it knows only
whether it is 8 bytes that may be an oid, a tuple that begins with them, a list, or something else.  So
nothing is hashed, compared, called or imported; time grows with the length of the record and with nothing
else, and memory likewise, whatever numbers and lengths the record announces.

A value is a number: 0 is something else, `LIST` is a list, a number above it is the place in the record where
the 8 bytes are, and a negative one is a tuple with them as its first item.
"""
from __future__ import annotations

import re
from struct import Struct
from struct import error as struct_error

from ZODB.POSException import StorageError

#: A list: of this kind are weak references and those to other databases, which keep nothing alive here.
LIST = 1
#: Values, and containers in containers, that may be under way at the same time, and strings remembered.  A
#: pickler puts at most two thousand values on the stack, apart from those of a single huge tuple.
MAX_STACK = 4_000_000
MAX_MARKS = 100_000
MAX_MEMO = 1_000_000
#: After so many opcodes the bounds are looked at: no opcode adds more than one of anything.
_BETWEEN_CHECKS = range(100_000)
_MAX_DIGITS = 20    # of a memo number written as text
_NEXT = -1          # where the memo itself keeps the next number of MEMOIZE

#: How nearly all records begin: the pickle of a class.
_CLASS = re.compile(rb'\x80[\x02\x03]c[^\n]*\n[^\n]*\nq.\.', re.DOTALL)
_PICKLES = 2        # of a record: the class, and the state

_u4 = Struct('<I').unpack_from
_u8 = Struct('<Q').unpack_from


#: Opcodes that push something else: the length of their operand.
_PLAIN = {ord('N'): 0, ord('K'): 1, ord('M'): 2, ord('J'): 4, ord('G'): 8, 0x88: 0, 0x89: 0, ord(')'): 0,
          ord('}'): 0, 0x8f: 0, 0x82: 1, 0x83: 2, 0x84: 4}
#: Opcodes that push something else: their operand is a line of text.
_LINES = frozenset(b'ILFSV')
#: Opcodes that push a string or a number after its length: how the length is written.
_COUNTED = {ord('X'): _u4, ord('B'): _u4, ord('T'): _u4, 0x8b: _u4, 0x8d: _u8, 0x8e: _u8, 0x96: _u8}
_LENGTHS = {op: 8 if read is _u8 else 4 for op, read in _COUNTED.items()}
#: Opcodes that take values from the stack: how many, and how many, something else, they push instead.
_TAKING = {ord('R'): (2, 1), 0x81: (2, 1), 0x92: (3, 1), 0x93: (2, 1), ord('s'): (2, 0), ord('a'): (1, 0),
           ord('b'): (1, 0)}
#: Opcodes that take all values down to the last mark: what they push instead, if anything.
_CLOSING = {ord('u'): None, ord('e'): None, 0x90: None, ord('1'): None, ord('d'): 0, ord('l'): LIST, 0x91: 0,
            ord('o'): 0}


class UnreadableRecord(StorageError):  # type: ignore[misc]
    """A record whose references cannot be found.  `why` not, and that record."""

    def __init__(self, why: str, record: bytes) -> None:
        super().__init__(f'a record cannot be read: {why}')
        self.why = why
        self.record = record


def references(record: bytes, oids: list[bytes] | None = None) -> list[bytes]:
    """The oids that `record` refers to, appended to `oids` if that is given.

    Raises `UnreadableRecord`; then `oids` is as it was.
    """
    if oids is None:
        oids = []
    first = _CLASS.match(record)
    memo: dict[int, int] = {}
    found: list[bytes] = []
    try:
        pos = _search(record, 0, memo, found) if first is None else first.end()
        _search(record, pos, memo, found)
    except (IndexError, struct_error):
        raise UnreadableRecord('it is cut off, or an opcode lacks its operands', record) from None
    except ValueError as error:
        raise UnreadableRecord(str(error), record) from None
    oids += found
    return oids


def _search(record: bytes, pos: int, memo: dict[int, int], found: list[bytes]) -> int:
    """Go through the pickle at `pos`; the place after it.  `memo` is that of both pickles of a record.

    One long chain, most frequent opcodes first: its order is its speed.
    """
    stack: list[int] = []
    marks: list[int] = []  # how long the stack was
    push, pop = stack.append, stack.pop
    while len(stack) <= MAX_STACK and len(marks) <= MAX_MARKS and len(memo) <= MAX_MEMO:
        for _ in _BETWEEN_CHECKS:
            op = record[pos]
            pos += 1
            if op == 0x71:                                          # q  BINPUT
                value = stack[-1]
                if value:
                    memo[record[pos]] = value
                elif record[pos] in memo:
                    del memo[record[pos]]
                pos += 1
            elif op == 0x58:                                        # X  BINUNICODE
                length = _u4(record, pos)[0]
                pos += 4
                push(pos if length == 8 else 0)
                pos += length
            elif op == 0x43 or op == 0x55:                          # C  SHORT_BINBYTES, U  SHORT_BINSTRING
                length = record[pos]
                pos += 1
                push(pos if length == 8 else 0)
                pos += length
            elif op == 0x68:                                        # h  BINGET
                push(memo.get(record[pos], 0))
                pos += 1
            elif op == 0x4b:                                        # K  BININT1
                push(0)
                pos += 1
            elif op == 0x86:                                        #    TUPLE2
                pop()
                value = stack[-1]
                if value:
                    stack[-1] = -value if value > LIST else 0
            elif op == 0x51:                                        # Q  BINPERSID
                value = stack[-1]
                if value != LIST:
                    found.append(_oid(record, value))
                stack[-1] = 0
            elif op == 0x72:                                        # r  LONG_BINPUT
                _put(memo, _u4(record, pos)[0], stack[-1])
                pos += 4
            elif op == 0x6a:                                        # j  LONG_BINGET
                push(memo.get(_u4(record, pos)[0], 0))
                pos += 4
            elif op == 0x63:                                        # c  GLOBAL
                pos = record.index(b'\n', record.index(b'\n', pos) + 1) + 1
                push(0)
            elif op == 0x28:                                        # (  MARK
                marks.append(len(stack))
            elif op == 0x74:                                        # t  TUPLE
                start = marks.pop()
                value = stack[start] if start < len(stack) else 0
                del stack[start:]
                push(-value if value > LIST else 0)
            elif op == 0x5d:                                        # ]  EMPTY_LIST
                push(LIST)
            elif op in _PLAIN:
                push(0)
                pos += _PLAIN[op]
            elif op in _CLOSING:
                del stack[marks.pop():]
                kind = _CLOSING[op]
                if kind is not None:
                    push(kind)
            elif op in _TAKING:
                count, pushed = _TAKING[op]
                if len(stack) < count:
                    raise ValueError(f'opcode {op:#04x} at byte {pos - 1} lacks its operands')
                del stack[-count:]
                if pushed:
                    push(0)
            elif op == 0x2e:                                        # .  STOP
                if pos > len(record):
                    raise IndexError
                return pos
            else:
                pos = _seldom(record, op, pos, stack, marks, memo, found)
    raise ValueError('more values are under way in it than in any real one')


def _oid(record: bytes, value: int) -> bytes:
    """The oid of a reference: `value`, or its first item."""
    oid = record[abs(value):abs(value) + 8]
    if not value or len(oid) != 8:
        raise ValueError('it refers to something that is not an oid')
    return oid


def _put(memo: dict[int, int], number: int, value: int) -> None:
    """Remember what may be part of a reference; forget what was there before."""
    if value:
        memo[number] = value
    else:
        memo.pop(number, None)


def _seldom(record: bytes, op: int, pos: int, stack: list[int], marks: list[int], memo: dict[int, int],
            found: list[bytes]) -> int:
    """The other opcodes; the place after them."""
    if op in _COUNTED:
        length = _COUNTED[op](record, pos)[0]
        pos += _LENGTHS[op]
        stack.append(pos if length == 8 and op != 0x8b else 0)
        return pos + int(length)
    if op == 0x8a or op == 0x8c:                                    #    LONG1, SHORT_BINUNICODE
        length = record[pos]
        stack.append(pos + 1 if length == 8 and op == 0x8c else 0)
        return pos + 1 + length
    if op in _LINES:
        stack.append(0)
        return record.index(b'\n', pos) + 1
    if op == 0x80:                                                  #    PROTO
        return pos + 1
    if op == 0x85:                                                  #    TUPLE1
        stack[-1] = -stack[-1] if stack[-1] > LIST else 0
    elif op == 0x87:                                                #    TUPLE3
        value = stack[-3]
        del stack[-3:]
        stack.append(-value if value > LIST else 0)
    elif op == 0x32:                                                # 2  DUP
        stack.append(stack[-1])
    elif op == 0x30:                                                # 0  POP
        if marks and marks[-1] == len(stack):
            marks.pop()
        else:
            stack.pop()
    elif op == 0x69:                                                # i  INST
        pos = record.index(b'\n', record.index(b'\n', pos) + 1) + 1
        del stack[marks.pop():]
        stack.append(0)
    elif op == 0x50:                                                # P  PERSID
        end = record.index(b'\n', pos)
        found.append(_oid(record, pos if end == pos + 8 else 0))
        stack.append(0)
        return end + 1
    elif op == 0x70 or op == 0x67:                                  # p  PUT, g  GET
        end = record.index(b'\n', pos)
        digits = record[pos:end] if end <= pos + _MAX_DIGITS else b''
        if not digits.isdigit():
            raise ValueError('a memo number is none')
        if op == 0x70:
            _put(memo, int(digits), stack[-1])
        else:
            stack.append(memo.get(int(digits), 0))
        return end + 1
    elif op == 0x94:                                                #    MEMOIZE
        number = memo.get(_NEXT, 0)
        memo[_NEXT] = number + 1
        _put(memo, number, stack[-1])
    elif op == 0x95:                                                #    FRAME
        return pos + 8
    else:
        raise ValueError(f'opcode {op:#04x} at byte {pos - 1} is not one of a record')
    return pos
