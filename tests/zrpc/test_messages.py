from __future__ import annotations

import pickle
import pickletools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.zrpc.helpers import IDS_31, OID, OIDS, TID, TRANSCRIPTS, VALUES, transcript
from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import marshal, messages, shapes
from zeo_clone.zrpc.frames import MAX_FRAME, frame
from zeo_clone.zrpc.messages import (
    KEEP_ALIVE,
    MAX_NAME,
    decode,
    decode_notices,
    encode_call,
    encode_error,
    encode_load,
    encode_loaded,
    encode_oneway,
    encode_reply,
    encode_store,
)

LATER = b'\4' * 8
NAMES = st.text(st.characters(codec='ascii', exclude_characters='.'), max_size=MAX_NAME)


def general(content):
    """What `content` means without any fast path: a message, or the exception type."""
    try:
        return messages._checked(marshal.loads(content))
    except ProtocolError:
        return ProtocolError


def answer(content):
    try:
        return decode(content)
    except ProtocolError:
        return ProtocolError


def same(one, other):
    """Equal in value and in all types."""
    return repr(one) == repr(other)


# ---- kinds of messages --------------------------------------------------------------------------

@given(IDS_31, NAMES, st.tuples(VALUES, VALUES))
def test_two_way_call_comes_out_as_it_went_in(message_id, name, args):
    assert same(decode(encode_call(message_id, name, args)), (message_id, 0, name, args))


@given(NAMES, st.tuples(VALUES))
def test_one_way_call_comes_out_as_it_went_in(name, args):
    assert same(decode(encode_oneway(name, args)), (0, 1, name, args))


@given(IDS_31 | st.tuples(OIDS, OIDS) | st.text(max_size=10, alphabet='abc'), VALUES)
def test_reply_comes_out_as_it_went_in_with_any_id(message_id, value):
    assert same(decode(encode_reply(message_id, value)), (message_id, 0, '.reply', value))


def test_error_reply_is_a_class_name_with_a_state():
    assert decode(encode_error(7, 'builtins.KeyError', ('a',))) == (
        7, 2, '.reply', ('builtins.KeyError', ('a',)))


def test_keep_alive_is_a_reply_that_nobody_waits_for():
    assert decode(KEEP_ALIVE) == (-1, 0, '.reply', None)
    assert pickle.loads(KEEP_ALIVE) == (-1, 0, '.reply', None)


@pytest.mark.parametrize('content', [
    encode_call(1, 'register', ('1', False)), encode_oneway('info', ({'size': 1},)), encode_reply(1, []),
    encode_error(1, 'a.b', ()), KEEP_ALIVE, encode_load(1, OID, TID), encode_loaded(1, (b'', TID, None)),
    encode_loaded(1, (b'', TID, LATER)),
])
def test_what_we_send_is_a_pickle_of_protocol_3_or_lower(content):
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(content)) <= 3


@pytest.mark.parametrize(('value', 'complaint'), [
    (None, 'not a tuple of four'),
    ((1, 0, 'ping'), 'not a tuple of four'),
    ((1, 0, 'ping', (), ()), 'not a tuple of four'),
    ([1, 0, 'ping', ()], 'not a tuple of four'),
    ((1, 3, 'ping', ()), "flag is none of"),
    ((1, -1, 'ping', ()), "flag is none of"),
    ((1, None, 'ping', ()), "flag is none of"),
    ((1, 0.0, 'ping', ()), "flag is none of"),
    ((1, 0, b'ping', ()), 'name is not a short text'),
    ((1, 0, 'x' * (MAX_NAME + 1), ()), 'name is not a short text'),
    ((None, 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    ((1.0, 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    ((True, 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    ((((1,),), 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    (((1, 2, 3, 4, 5), 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    ((b'x' * (MAX_NAME + 1), 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    (([1], 0, 'ping', ()), "id of a 'ping' is of a wrong type"),
    ((1, 0, 'ping', []), "arguments of a 'ping' are not a tuple"),
    ((1, 0, 'ping', None), "arguments of a 'ping' are not a tuple"),
])
def test_wrong_shape_is_refused_with_the_reason(value, complaint):
    """S5a: nothing is hashed or compared before its exact type is known."""
    with pytest.raises(ProtocolError, match=complaint):
        decode(pickle.dumps(value, 3))


@pytest.mark.parametrize('content', [b'', b'.', b'\x80\x03.', b'N.', KEEP_ALIVE[:-1], KEEP_ALIVE + b'.',
                                     b'cos\nsystem\n(X\4\0\0\0truetR.', b'ruok'])
def test_what_is_no_message_is_refused(content):
    """S5."""
    with pytest.raises(ProtocolError):
        decode(content)


# ---- fast path and general path -----------------------------------------------------------------

@given(IDS_31, OIDS, OIDS)
def test_fast_load_call_means_what_the_general_one_means(message_id, oid, tid):
    fast = encode_load(message_id, oid, tid)
    assert pickle.loads(fast) == (message_id, False, 'loadBefore', (oid, tid))
    assert same(decode(fast), decode(encode_call(message_id, 'loadBefore', (oid, tid))))
    assert same(decode(fast), general(fast))


@given(OIDS, OIDS, st.binary(max_size=600), IDS_31)
def test_fast_store_means_what_the_general_one_means(oid, serial, data, transaction_id):
    fast = encode_store(oid, serial, data, transaction_id)
    assert pickle.loads(fast) == (0, True, 'storea', (oid, serial, data, transaction_id))
    assert same(decode(fast), decode(encode_oneway('storea', (oid, serial, data, transaction_id))))
    assert same(decode(fast), general(fast))


@given(IDS_31 | st.integers(-1 << 31, 0), st.binary(max_size=600), OIDS, st.none() | OIDS)
@example(5, b'', TID, None)
@example(5, b'x' * 255, TID, LATER)
@example(5, b'x' * 70_000, TID, None)
def test_fast_load_reply_means_what_the_general_one_means(message_id, data, serial, end):
    fast = encode_loaded(message_id, (data, serial, end))
    assert fast[8:22] == messages._LOADED  # it did take the fast path
    assert pickle.loads(fast) == (message_id, 0, '.reply', (data, serial, end))
    assert same(decode(fast), decode(encode_reply(message_id, (data, serial, end))))
    assert same(decode(fast), general(fast))


@pytest.mark.parametrize('revision', [
    None, (None, TID, None), (b'data', TID, b'short'), (b'data', 'x' * 8, None), (b'data', TID, 'x' * 8),
    (b'data', None, None), (b'data', b'short', None), (b'data', TID), (b'data', TID, None, None), (),
    b'data', [b'data', TID, None], (b'data', 12345678, None), (b'data', TID, 0),
])
@pytest.mark.parametrize('message_id', [5, (OID, TID), 'id', 1 << 31, -1 << 40])
def test_whatever_a_storage_returned_takes_the_general_path(message_id, revision):
    """S3: what the storage did wrong is seen by the client, not by the connection."""
    assert encode_loaded(message_id, revision) == encode_reply(message_id, revision)


@pytest.mark.parametrize('message_id', [(OID, TID), 'id', 1 << 31, -1 << 40])
def test_load_reply_to_an_id_that_is_not_ours_takes_the_general_path(message_id):
    revision = (b'data', TID, None)
    assert encode_loaded(message_id, revision) == encode_reply(message_id, revision)
    assert decode(encode_loaded(message_id, revision)) == (message_id, 0, '.reply', revision)


NUMBERS = st.integers(-1 << 31, (1 << 31) - 1)


def means_the_same(fast, content, value):
    """`fast` is what was sent in place of the general form `content` of `value`."""
    assert messages._decode_shape(fast) is not None  # it did take the fast path, on both sides
    assert same(pickle.loads(fast), value)
    assert same(decode(fast), general(fast))
    assert same(decode(fast), general(content))


@given(NUMBERS, st.sampled_from(['vote', 'tpc_finish', 'tpc_abort']), NUMBERS)
def test_fast_numbered_call_means_what_the_general_one_means(message_id, name, number):
    value = (message_id, False, name, (number,))
    means_the_same(encode_call(message_id, name, (number,)), marshal.dumps(value), value)


@given(NUMBERS, st.none() | st.just([]) | OIDS | OIDS.map(lambda tid: [{'tid': tid}]))
def test_fast_small_reply_means_what_the_general_one_means(message_id, value):
    message = (message_id, 0, '.reply', value)
    means_the_same(encode_reply(message_id, value), marshal.dumps(message), message)


@given(NUMBERS, st.binary(max_size=300), st.binary(max_size=300))
def test_fast_begin_means_what_the_general_one_means(number, user, description):
    args = (number, user, description, {}, None, ' ')
    means_the_same(encode_oneway('tpc_begin', args), marshal.dumps((0, True, 'tpc_begin', args)),
                   (0, True, 'tpc_begin', args))


@given(st.binary(max_size=600), OIDS, OIDS)
@example(b'x' * 59_000, OID, TID)
def test_fast_chunk_of_a_blob_means_what_the_general_one_means(chunk, oid, serial):
    for name, args in ('storeBlobChunk', (chunk,)), ('receiveBlobChunk', (oid, serial, chunk)):
        value = (0, True, name, args)
        means_the_same(encode_oneway(name, args), marshal.dumps(value), value)


@given(st.integers(-1 << 63, (1 << 63) - 1), st.integers(-1 << 63, (1 << 63) - 1))
@example(-1 << 63, (1 << 63) - 1)
def test_fast_info_means_what_the_general_one_means(length, size):
    args = ({'length': length, 'size': size},)
    value = (0, True, 'info', args)
    means_the_same(encode_oneway('info', args), marshal.dumps(value), value)


@given(OIDS, st.lists(OIDS, min_size=1, max_size=30))
@example(TID, [OID] * shapes.MAX_ITEMS)
@example(b'C\x08' * 4, [b'C\x08' * 4, b'\x08C' * 4, b'e\x86t.](C\x08'])
def test_fast_invalidation_means_what_the_general_one_means(tid, oids):
    args = (tid, oids)
    means_the_same(encode_oneway('invalidateTransaction', args),
                   marshal.dumps((0, True, 'invalidateTransaction', args)),
                   (0, True, 'invalidateTransaction', args))


@pytest.mark.parametrize(('name', 'args'), [
    ('tpc_begin', ()), ('tpc_begin', (1, b'', b'', {}, None)), ('tpc_begin', ('x', b'', b'', {}, None, ' ')),
    ('tpc_begin', (1 << 31, b'', b'', {}, None, ' ')), ('tpc_begin', (1, '', b'', {}, None, ' ')),
    ('tpc_begin', (1, b'', '', {}, None, ' ')), ('tpc_begin', (1, b'', b'', {1: 2}, None, ' ')),
    ('tpc_begin', (1, b'', b'', [], None, ' ')), ('tpc_begin', (1, b'', b'', {}, TID, ' ')),
    ('tpc_begin', (1, b'', b'', {}, None, 'p')), ('tpc_begin', (True, b'', b'', {}, None, ' ')),
    ('info', ()), ('info', ({},)), ('info', ({'size': 1, 'length': 1},)),
    ('info', ({'length': 1 << 63, 'size': 1},)),
    ('info', ({'length': 1, 'size': (-1 << 63) - 1},)), ('info', ({'length': True, 'size': 1},)),
    ('info', ({'length': 1, 'size': 1, 'x': 1},)), ('info', (None,)), ('info', ({'length': 1, 'size': 1}, 1)),
    ('storeBlobChunk', ()), ('storeBlobChunk', ('x',)), ('storeBlobChunk', (b'', b'')),
    ('receiveBlobChunk', (OID, TID)), ('receiveBlobChunk', (OID, TID, 'x')),
    ('receiveBlobChunk', (OID, b'short', b'x')), ('receiveBlobChunk', ('x' * 8, TID, b'x')),
    ('receiveBlobChunk', (b'short', TID, b'x')), ('receiveBlobChunk', (OID, TID, b'x', 1)),
    ('invalidateTransaction', (TID, [])), ('invalidateTransaction', (TID, [OID] * (shapes.MAX_ITEMS + 1))),
    ('invalidateTransaction', (TID, (OID,))), ('invalidateTransaction', (TID, [OID, b'short'])),
    ('invalidateTransaction', (TID, [OID, 'x' * 8])), ('invalidateTransaction', (b'short', [OID])),
    ('invalidateTransaction', (None, [OID])), ('invalidateTransaction', (TID, [OID], 1)),
])
def test_one_way_call_of_another_form_takes_the_general_path(name, args):
    assert encode_oneway(name, args) == marshal.dumps((0, True, name, args))


@pytest.mark.parametrize(('message_id', 'args'), [
    (1, ()), (1, (1, 2)), (1, ('1',)), (1, (True,)), (1, (1 << 31,)), (1 << 31, (1,)), (-1 << 40, (1,))])
def test_numbered_call_of_another_form_takes_the_general_path(message_id, args):
    assert encode_call(message_id, 'vote', args) == marshal.dumps((message_id, False, 'vote', args))


@pytest.mark.parametrize(('message_id', 'value'), [
    (1, b'short'), (1, [1]), (1, ()), (1, 0), (1, False), (1, 'x' * 8), (1, {}), (1 << 31, None),
    (1, [{}]), (1, [{'tid': b'short'}]), (1, [{'tid': None}]), (1, [{'tid': TID, 'x': 1}]), (1, [{'x': TID}]),
    (1, [{'tid': TID}, TID]), (1, [(('tid', TID),)]), (1, [{b'tid': TID}]),
    ((OID, TID), None), ('id', [])])
def test_reply_of_another_form_takes_the_general_path(message_id, value):
    assert encode_reply(message_id, value) == marshal.dumps((message_id, 0, '.reply', value))


FAST = [encode_load(77, OID, TID), encode_load(1, b'C\x08' * 4, b'\x86t.' + b'C' * 5),
        encode_loaded(77, (b'', TID, None)), encode_loaded(77, (b'', TID, LATER)),
        encode_loaded(1, (b'some data', TID, None)), encode_loaded(1, (b'N\x87t.' * 5, TID, LATER)),
        encode_loaded(1, (messages._LOADED * 2, b'N\x87t.C\x08C\x08', None)),
        encode_store(OID, TID, b'', 77), encode_store(OID, TID, b'some data', 1),
        encode_store(b'C\x08' * 4, b'B' * 8, b'J\0\0\0\0tt.', 1),
        encode_call(77, 'vote', (5,)), encode_call(77, 'tpc_finish', (-5,)),
        encode_call(1, 'tpc_abort', (5,)),
        encode_reply(7, None), encode_reply(7, []), encode_reply(7, TID), encode_reply(7, [{'tid': TID}]),
        encode_reply(7, [{'tid': b'sat.sat.'}]), encode_reply(7, b't.C\x08]t.N'),
        encode_oneway('tpc_begin', (7, b'', b'', {}, None, ' ')),
        encode_oneway('tpc_begin', (7, b'user', b'B\1\0\0\0}NX', {}, None, ' ')),
        encode_oneway('storeBlobChunk', (b'',)), encode_oneway('storeBlobChunk', (b'\x85t.B\1\0\0\0',)),
        encode_oneway('receiveBlobChunk', (OID, TID, b'')),
        encode_oneway('receiveBlobChunk', (b'C\x08' * 4, LATER, b'B\1\0\0\0\x87t.')),
        encode_oneway('info', ({'length': 3, 'size': 1 << 40},)),
        encode_oneway('invalidateTransaction', (TID, [OID])),
        encode_oneway('invalidateTransaction', (b'](C\x08](C\x08', [OID, b'C\x08' * 4, LATER]))]


def test_each_shape_has_an_example_of_a_fast_message():
    """A new one is to be added above."""
    for shape in messages.SHAPES:
        assert any(map(shape.decode, FAST)), shape


@pytest.mark.parametrize('content', FAST, ids=range(len(FAST)))
def test_fast_message_with_one_other_byte_means_what_it_generally_means(content):
    """S5: each byte replaced by each other value."""
    for position in range(len(content)):
        for byte in range(256):
            mutant = content[:position] + bytes([byte]) + content[position + 1:]
            assert same(answer(mutant), general(mutant)), mutant


@pytest.mark.parametrize('content', FAST, ids=range(len(FAST)))
def test_fast_message_that_is_cut_or_has_more_means_what_it_generally_means(content):
    """S5."""
    for position in range(len(content) + 1):
        start, rest = content[:position], content[position:]
        for mutant in (start, rest, start + rest[1:], start + b'N' + rest, start * 2):
            assert same(answer(mutant), general(mutant)), mutant


CHANGES = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 3), st.binary(max_size=5)), max_size=4)


@given(st.sampled_from(FAST), CHANGES)
def test_fast_message_with_any_changes_means_what_it_generally_means(content, changes):
    """S5."""
    for position, removed, put in changes:
        content = content[:position] + put + content[position + removed:]
    assert same(answer(content), general(content))


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda rest: b'\x80\x03(J' + rest)
       | st.binary(max_size=60).map(lambda rest: b'\x80\x03(J\1\0\0\0' + messages._LOADED + rest))
def test_any_bytes_are_a_message_or_a_protocol_error(content):
    """S5."""
    assert same(answer(content), general(content))


NOTICES = [content for content in FAST if messages.NOTICE.decode(content)]


@pytest.mark.parametrize('content', NOTICES, ids=range(len(NOTICES)))
def test_notice_in_a_piece_with_one_other_byte_means_what_it_generally_means(content):
    """S5: each byte of its frame replaced by each other value, or it is not taken."""
    before, whole = frame(NOTICES[0]), frame(content)
    first, end = decode_notices(before, MAX_FRAME)
    assert end == len(before)
    for position in range(len(whole)):
        for byte in range(256):
            mutant = whole[:position] + bytes([byte]) + whole[position + 1:]
            changes, end = decode_notices(before + mutant, MAX_FRAME)
            if end == len(before):
                assert changes == first and (position < 4 or mutant != whole)
            else:
                assert mutant[:4] == whole[:4] and end == len(before + mutant)
                assert same(general(mutant[4:]), (0, 1, 'invalidateTransaction', changes[1]))
                assert changes[:1] == first


def test_notices_are_taken_up_to_one_that_is_cut_or_too_long_or_something_else():
    piece = b''.join(map(frame, NOTICES))
    everything = decode_notices(piece, MAX_FRAME)
    assert everything == ([messages.NOTICE.decode(content)[3] for content in NOTICES], len(piece))
    ends = [0, len(frame(NOTICES[0])), len(piece)]
    for stop in range(len(piece)):
        count = sum(end <= stop for end in ends[1:])
        assert decode_notices(piece[:stop], MAX_FRAME) == (everything[0][:count], ends[count])
    assert decode_notices(piece, len(NOTICES[0])) == (everything[0][:1], ends[1])
    assert decode_notices(piece + frame(KEEP_ALIVE), MAX_FRAME) == everything


# ---- recorded traffic ---------------------------------------------------------------------------

@pytest.mark.parametrize('name', TRANSCRIPTS)
def test_recorded_frames_mean_what_a_pickle_of_them_means(name):
    compared = 0
    for _, sender, content in transcript(name):
        if content in (b'Z5', b'Z4', b'ruok') or content[:1] == b'{':
            continue
        if any(opcode.name == 'GLOBAL' for opcode, _, _ in pickletools.genops(content)):
            with pytest.raises(ProtocolError, match='is not on the list'):
                decode(content)  # a Z4 server's exception: we are no client of those
            assert (name, sender) == ('z4-zeo-4.3.1', 'server')
            continue
        message = decode(content)
        original = pickle.loads(content)
        assert message == (original[0], int(original[1]), *original[2:])
        compared += 1
    assert compared > 50
