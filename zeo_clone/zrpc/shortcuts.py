r"""Shortcuts: the messages that sites exchange all the time, without the general pickler.

In and out as in `messages`, which takes the general path where a shortcut answers None.  What an encoder
makes is a valid pickle (protocol 3, without memo) of the same message; a decoder recognises just that form,
every byte of it that is not a value, and leaves any other form to the general path.  A test holds both paths
against each other.  Ids and numbers are always BININT, so that all offsets are fixed::

    (id, False, 'loadBefore', (oid, tid))
    (id, False, 'vote' | 'tpc_finish' | 'tpc_abort', (number,))
    (id, 0, '.reply', (data, serial, next serial or None) | 8 bytes | [] | [{'tid': tid}] | None)
    (0, True, 'storea', (oid, serial, data, number))
    (0, True, 'tpc_begin', (number, user, description, {}, None, ' '))
    (0, True, 'storeBlobChunk', (chunk,))
    (0, True, 'receiveBlobChunk', (oid, serial, chunk))
    (0, True, 'info', ({'length': length, 'size': size},))
    (0, True, 'invalidateTransaction', (tid, [oid, ...]))
"""
from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as struct_error
from typing import Any

#: A decoded message: id, flag, name, args.
Message = tuple[Any, int, str, Any]

#: More oids in an invalidation are sent in parts, as picklers have it: the general way.
MAX_OIDS = 1000
_LOW, _HIGH = -0x80000000, 0x7fffffff

_ID = b'\x80\x03(J'
_BYTES_8 = b'C\x08'
_int = Struct('<i')
_size = Struct('<I')
_long = Struct('<q')

# ---- two-way calls ------------------------------------------------------------------------------
_LOAD_NAME = b'\x89X\n\0\0\0loadBeforeC\x08'
_LOAD_END = b'\x86t.'
_LOAD = Struct('<4si18s8s2s8s3s')
_NUMBERED_END = b'\x85t.'
_NUMBERED = {name: b'\x89X' + _size.pack(len(name)) + name.encode() + b'J'
             for name in ('vote', 'tpc_finish', 'tpc_abort')}
_NUMBERED_NAMES = {shape: name for name, shape in _NUMBERED.items()}
_NUMBERED_SIZES = frozenset(8 + len(shape) + 7 for shape in _NUMBERED.values())
assert _LOAD.size == 47


def encode_load(message_id: int, oid: bytes, tid: bytes) -> bytes:
    """The call of loadBefore for an id of 31 bits and an oid and tid of exactly 8 bytes."""
    return _LOAD.pack(_ID, message_id, _LOAD_NAME, oid, _BYTES_8, tid, _LOAD_END)


def _decode_load(content: bytes) -> Message | None:
    if len(content) == 47:
        _, message_id, name, oid, mark, tid, end = _LOAD.unpack(content)
        if name == _LOAD_NAME and mark == _BYTES_8 and end == _LOAD_END:
            return message_id, 0, 'loadBefore', (oid, tid)
    return None


def encode_call(message_id: int, name: str, args: tuple[Any, ...]) -> bytes | None:
    """A call whose only argument is the number of a transaction."""
    shape = _NUMBERED.get(name)
    if shape is None or len(args) != 1:
        return None
    number = args[0]
    if type(number) is not int or not _LOW <= number <= _HIGH or not _LOW <= message_id <= _HIGH:
        return None
    return b'%b%b%b%b%b' % (_ID, _int.pack(message_id), shape, _int.pack(number), _NUMBERED_END)


def _decode_numbered(content: bytes) -> Message | None:
    size = len(content)
    if size not in _NUMBERED_SIZES or content[-3:] != _NUMBERED_END:
        return None
    name = _NUMBERED_NAMES.get(content[8:-7])
    if name is None:
        return None
    return _int.unpack_from(content, 4)[0], 0, name, _int.unpack_from(content, size - 7)


# ---- replies ------------------------------------------------------------------------------------
_REPLY = b'K\0X\x06\0\0\0.reply'
_LOADED = _REPLY + b'B'
_LOADED_HEAD = Struct('<4si14sI')
_CURRENT_TAIL = Struct('<2s8s4s')
_CURRENT_END = b'N\x87t.'
_PAST_TAIL = Struct('<2s8s2s8s3s')
_PAST_END = b'\x87t.'
_NONE_END, _EMPTY_END, _END = b'Nt.', b']t.', b't.'
_TID, _TID_END = b']}X\x03\0\0\0tidC\x08', b'sat.'
assert len(_TID) == 12
assert (len(_REPLY), _LOADED_HEAD.size, _CURRENT_TAIL.size, _PAST_TAIL.size) == (13, 26, 14, 23)


def encode_loaded(message_id: Any, revision: Any) -> bytes | None:
    """The reply with what a storage's loadBefore returned."""
    if (type(message_id) is int and _LOW <= message_id <= _HIGH
            and type(revision) is tuple and len(revision) == 3):
        data, serial, end = revision
        if type(data) is bytes and type(serial) is bytes and len(serial) == 8:
            head = _LOADED_HEAD.pack(_ID, message_id, _LOADED, len(data))
            if end is None:
                return b'%b%b%b' % (head, data, _CURRENT_TAIL.pack(_BYTES_8, serial, _CURRENT_END))
            if type(end) is bytes and len(end) == 8:
                return b'%b%b%b' % (head, data, _PAST_TAIL.pack(_BYTES_8, serial, _BYTES_8, end, _PAST_END))
    return None


def encode_reply(message_id: Any, value: Any) -> bytes | None:
    """The reply None, 8 bytes, or what a vote is usually answered with."""
    if type(message_id) is not int or not _LOW <= message_id <= _HIGH:
        return None
    if value is None:
        end = _NONE_END
    elif type(value) is bytes and len(value) == 8:
        end = b'C\x08%bt.' % value
    elif type(value) is not list:
        return None
    elif not value:
        end = _EMPTY_END
    elif len(value) == 1 and type(value[0]) is dict and list(value[0]) == ['tid']:
        tid = value[0]['tid']
        if type(tid) is not bytes or len(tid) != 8:
            return None
        end = b'%b%b%b' % (_TID, tid, _TID_END)
    else:
        return None
    return b'%b%b%b%b' % (_ID, _int.pack(message_id), _REPLY, end)


def _decode_reply(content: bytes) -> Message | None:
    if content[8:22] == _LOADED:
        return _decode_loaded(content) if len(content) >= _LOADED_HEAD.size else None
    if content[8:21] != _REPLY:
        return None
    end = content[21:47]
    if end == _EMPTY_END:
        value: Any = []
    elif end == _NONE_END:
        value = None
    elif len(end) == 12 and end[:2] == _BYTES_8 and end[10:] == _END:
        value = end[2:10]
    elif len(end) == 24 and end[:12] == _TID and end[20:] == _TID_END:
        value = [{'tid': end[12:20]}]
    else:
        return None
    return _int.unpack_from(content, 4)[0], 0, '.reply', value


def _decode_loaded(content: bytes) -> Message | None:
    _, message_id, _, size = _LOADED_HEAD.unpack_from(content)
    stop = 26 + size
    rest = len(content) - stop
    if rest == 14:
        mark, serial, end_mark = _CURRENT_TAIL.unpack_from(content, stop)
        if mark == _BYTES_8 and end_mark == _CURRENT_END:
            return message_id, 0, '.reply', (content[26:stop], serial, None)
    elif rest == 23:
        mark, serial, mark_2, end, end_mark = _PAST_TAIL.unpack_from(content, stop)
        if mark == mark_2 == _BYTES_8 and end_mark == _PAST_END:
            return message_id, 0, '.reply', (content[26:stop], serial, end)
    return None


# ---- one-way calls ------------------------------------------------------------------------------
_STORE = b'\x80\x03(K\0\x88X\x06\0\0\0storea(C\x08'
_STORE_HEAD = Struct('<20s8s2s8scI')
_STORE_TAIL = Struct('<ci3s')
_STORE_END = b'tt.'
_BEGIN = b'\x80\x03(K\0\x88X\t\0\0\0tpc_begin(J'
_BEGIN_HEAD = Struct('<22sicI')
_BEGIN_END = b"}NX\1\0\0\0 tt."
_INFO_KEYS = b'\x80\x03(K\0\x88X\4\0\0\0info}(X\6\0\0\0length\x8a\x08', b'X\4\0\0\0size\x8a\x08', b'u\x85t.'
_INFO = Struct('<30sq11sq4s')
_INVALIDATE = b'\x80\x03(K\0\x88X\x15\0\0\0invalidateTransactionC\x08'
_INVALIDATE_LIST = b'](C\x08'
_INVALIDATE_END = b'e\x86t.'
_UP = b'\x80\x03(K\0\x88X\x0e\0\0\0storeBlobChunkB'
_UP_END = b'\x85t.'
_DOWN = b'\x80\x03(K\0\x88X\x10\0\0\0receiveBlobChunkC\x08'
_DOWN_HEAD = Struct('<29s8s2s8scI')
_DOWN_END = b'\x87t.'
_eights = Struct('8s2x').iter_unpack
assert (len(_STORE), _STORE_HEAD.size, _STORE_TAIL.size) == (20, 43, 8)
assert (len(_BEGIN), _BEGIN_HEAD.size, len(_BEGIN_END), len(_INVALIDATE)) == (22, 31, 11, 34)
assert (len(_UP), len(_DOWN), _DOWN_HEAD.size) == (26, 29, 52)
assert [len(key) for key in _INFO_KEYS] == [30, 11, 4]


def encode_store(oid: bytes, serial: bytes, data: bytes, number: int) -> bytes:
    """The call of storea for a number of 31 bits and an oid and serial of exactly 8 bytes."""
    return b'%b%b%b' % (_STORE_HEAD.pack(_STORE, oid, _BYTES_8, serial, b'B', len(data)), data,
                        _STORE_TAIL.pack(b'J', number, _STORE_END))


def _decode_store(content: bytes) -> Message | None:
    if len(content) < 43:
        return None
    start, oid, mark, serial, data_mark, size = _STORE_HEAD.unpack_from(content)
    stop = 43 + size
    if start != _STORE or mark != _BYTES_8 or data_mark != b'B' or len(content) != stop + 8:
        return None
    number_mark, number, end = _STORE_TAIL.unpack_from(content, stop)
    if number_mark != b'J' or end != _STORE_END:
        return None
    return 0, 1, 'storea', (oid, serial, content[43:stop], number)


def _encode_begin(args: tuple[Any, ...]) -> bytes | None:
    if len(args) != 6:
        return None
    number, user, description, extension, tid, status = args
    if (type(number) is not int or not _LOW <= number <= _HIGH or type(user) is not bytes
            or type(description) is not bytes or type(extension) is not dict or extension
            or tid is not None or type(status) is not str or status != ' '):
        return None
    return b'%b%bB%b%b%b' % (_BEGIN_HEAD.pack(_BEGIN, number, b'B', len(user)), user,
                             _size.pack(len(description)), description, _BEGIN_END)


def _decode_begin(content: bytes) -> Message | None:
    if len(content) < 36:
        return None
    start, number, mark, size = _BEGIN_HEAD.unpack_from(content)
    middle = 31 + size
    if start != _BEGIN or mark != b'B' or content[middle:middle + 1] != b'B' or len(content) < middle + 5:
        return None
    stop = middle + 5 + _size.unpack_from(content, middle + 1)[0]
    if len(content) != stop + 11 or content[stop:] != _BEGIN_END:
        return None
    return 0, 1, 'tpc_begin', (number, content[31:middle], content[middle + 5:stop], {}, None, ' ')


def _encode_info(args: tuple[Any, ...]) -> bytes | None:
    info = args[0] if len(args) == 1 else None
    if type(info) is not dict or list(info) != ['length', 'size']:
        return None
    length, size = info.values()
    if type(length) is not int or type(size) is not int:
        return None
    try:
        return _INFO.pack(_INFO_KEYS[0], length, _INFO_KEYS[1], size, _INFO_KEYS[2])
    except struct_error:  # more than 8 bytes
        return None


def _decode_info(content: bytes) -> Message | None:
    if len(content) != _INFO.size:
        return None
    start, length, middle, size, end = _INFO.unpack(content)
    if (start, middle, end) != _INFO_KEYS:
        return None
    return 0, 1, 'info', ({'length': length, 'size': size},)


def _encode_invalidation(args: tuple[Any, ...]) -> bytes | None:
    if len(args) != 2:
        return None
    tid, oids = args
    if (type(tid) is not bytes or len(tid) != 8 or type(oids) is not list or not 0 < len(oids) <= MAX_OIDS
            or set(map(type, oids)) != {bytes} or set(map(len, oids)) != {8}):
        return None
    return b'%b%b%b%b%b' % (_INVALIDATE, tid, _INVALIDATE_LIST, _BYTES_8.join(oids), _INVALIDATE_END)


def _decode_invalidation(content: bytes) -> Message | None:
    count, odd = divmod(len(content) - 48, 10)
    if odd or not 0 < count <= MAX_OIDS or content[-4:] != _INVALIDATE_END \
            or content[:34] != _INVALIDATE or content[42:46] != _INVALIDATE_LIST:
        return None
    items = content[46:-4] + _BYTES_8  # each oid with the opcode of the next one behind it
    if items[8::10] != b'C' * count or items[9::10] != b'\x08' * count:
        return None
    return 0, 1, 'invalidateTransaction', (content[34:42], [oid for oid, in _eights(items)])


def _encode_up(args: tuple[Any, ...]) -> bytes | None:
    if len(args) != 1 or type(args[0]) is not bytes:
        return None
    return b'%b%b%b%b' % (_UP, _size.pack(len(args[0])), args[0], _UP_END)


def _decode_up(content: bytes) -> Message | None:
    if (content[:26] != _UP or len(content) < 33 or content[-3:] != _UP_END
            or _size.unpack_from(content, 26)[0] != len(content) - 33):
        return None
    return 0, 1, 'storeBlobChunk', (content[30:-3],)


def _encode_down(args: tuple[Any, ...]) -> bytes | None:
    if len(args) != 3 or set(map(type, args)) != {bytes} or len(args[0]) != 8 or len(args[1]) != 8:
        return None
    oid, serial, chunk = args
    return b'%b%b%b' % (_DOWN_HEAD.pack(_DOWN, oid, _BYTES_8, serial, b'B', len(chunk)), chunk, _DOWN_END)


def _decode_down(content: bytes) -> Message | None:
    if len(content) < 55:
        return None
    start, oid, mark, serial, chunk_mark, size = _DOWN_HEAD.unpack_from(content)
    if (start != _DOWN or mark != _BYTES_8 or chunk_mark != b'B' or len(content) != size + 55
            or content[-3:] != _DOWN_END):
        return None
    return 0, 1, 'receiveBlobChunk', (oid, serial, content[52:-3])


_ONEWAY: dict[str, Callable[[tuple[Any, ...]], bytes | None]] = {
    'tpc_begin': _encode_begin, 'info': _encode_info, 'invalidateTransaction': _encode_invalidation,
    'storeBlobChunk': _encode_up, 'receiveBlobChunk': _encode_down}


def encode_oneway(name: str, args: tuple[Any, ...]) -> bytes | None:
    """A one-way call, either direction."""
    encode = _ONEWAY.get(name)
    return None if encode is None else encode(args)


# ---- decoding -----------------------------------------------------------------------------------
_Decoder = Callable[[bytes], Message | None]
#: By what follows the id: a flag, the length of a name, its first letters.
_BY_SHAPE: dict[bytes, _Decoder] = {
    _LOAD_NAME[:8]: _decode_load, _REPLY[:8]: _decode_reply,
    **{shape[:8]: _decode_numbered for shape in _NUMBERED.values()}}
_BY_START: dict[bytes, _Decoder] = {
    _STORE[:16]: _decode_store, _BEGIN[:16]: _decode_begin, _INFO_KEYS[0][:16]: _decode_info,
    _INVALIDATE[:16]: _decode_invalidation, _UP[:16]: _decode_up, _DOWN[:16]: _decode_down}
assert (len(_BY_SHAPE), len(_BY_START)) == (5, 6)


def decode(content: bytes) -> Message | None:
    """The message in a frame's content; None: it is to be decoded the general way."""
    if content[:4] == _ID:
        decoder = _BY_SHAPE.get(content[8:16])
    else:
        decoder = _BY_START.get(content[:16])
    return None if decoder is None else decoder(content)
