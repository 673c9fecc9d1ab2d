"""What shapes look like on the wire, and what a shape cannot be; what they mean is in test_messages.py."""
from __future__ import annotations

import pickle

import pytest

from tests.zrpc.helpers import OID, TID
from zeo_clone.zrpc import messages
from zeo_clone.zrpc.messages import (
    encode_call,
    encode_load,
    encode_loaded,
    encode_oneway,
    encode_reply,
    encode_store,
)
from zeo_clone.zrpc.shapes import BYTES, EIGHT, NUMBER, Shape

LATER = b'\4' * 8
VALUES = {NUMBER: -7, EIGHT: b'%b%b%s%%', BYTES: b'%%%'}
#: As versions before have sent them.
RECORDED = [
    (encode_load, 77, OID, TID,
     '8003284a4d00000089580a0000006c6f61644265666f7265430800000000000000014308030303030303030386742e'),
    (encode_loaded, 77, (b'data', TID, None),
     '8003284a4d0000004b0058060000002e7265706c79420400000064617461430803030303030303034e87742e'),
    (encode_loaded, -77, (b'data', TID, LATER),
     '8003284ab3ffffff4b0058060000002e7265706c79420400000064617461430803030303030303034308040404040404'
     '040487742e'),
    (encode_store, OID, TID, b'data', 77,
     '8003284b0088580600000073746f7265612843080000000000000001430803030303030303034204000000646174614a'
     '4d00000074742e'),
    (encode_call, 77, 'vote', (5,),
     '8003284a4d000000895804000000766f74654a0500000085742e'),
    (encode_call, 77, 'tpc_finish', (-5,),
     '8003284a4d00000089580a0000007470635f66696e6973684afbffffff85742e'),
    (encode_call, 77, 'tpc_abort', (5,),
     '8003284a4d0000008958090000007470635f61626f72744a0500000085742e'),
    (encode_reply, 77, None,
     '8003284a4d0000004b0058060000002e7265706c794e742e'),
    (encode_reply, 77, TID,
     '8003284a4d0000004b0058060000002e7265706c7943080303030303030303742e'),
    (encode_reply, 77, [],
     '8003284a4d0000004b0058060000002e7265706c795d742e'),
    (encode_reply, 77, [{'tid': TID}],
     '8003284a4d0000004b0058060000002e7265706c795d7d5803000000746964430803030303030303037361742e'),
    (encode_oneway, 'tpc_begin', (5, b'me', b'%b', {}, None, ' '),
     '8003284b008858090000007470635f626567696e284a0500000042020000006d65420200000025627d4e580100000020'
     '74742e'),
    (encode_oneway, 'storeBlobChunk', (b'chunk',),
     '8003284b0088580e00000073746f7265426c6f624368756e6b42050000006368756e6b85742e'),
    (encode_oneway, 'receiveBlobChunk', (OID, TID, b'chunk'),
     '8003284b0088581000000072656365697665426c6f624368756e6b430800000000000000014308030303030303030342'
     '050000006368756e6b87742e'),
    (encode_oneway, 'info', ({'length': 3, 'size': -1},),
     '8003284b00885804000000696e666f7d2858060000006c656e6774688a080300000000000000580400000073697a658a'
     '08ffffffffffffffff7585742e'),
    (encode_oneway, 'invalidateTransaction', (TID, [OID, LATER]),
     '8003284b00885815000000696e76616c69646174655472616e73616374696f6e430803030303030303035d2843080000'
     '000000000001430804040404040404046586742e'),
]


@pytest.mark.parametrize(('encode', 'given', 'expected'), [
    (encode, tuple(given), bytes.fromhex(expected)) for encode, *given, expected in RECORDED])
def test_message_looks_as_it_always_did(encode, given, expected):
    """Whatever makes the bytes."""
    assert encode(*given) == expected


def test_each_shape_is_recorded():
    """A new one is to be added above."""
    for shape in messages.SHAPES:
        assert any(shape.decode(bytes.fromhex(content)) for *_, content in RECORDED), shape


def test_each_recorded_message_is_decoded_by_its_shape():
    """Not by the pickler."""
    for *_, content in RECORDED:
        assert messages._decode_shape(bytes.fromhex(content))


def test_functions_of_a_shape_are_documented_by_their_source():
    """See `help`."""
    assert messages.LOAD.encode.__doc__.startswith('def encode(id, value):\n    try:\n        if ')
    assert messages.LOAD.decode.__doc__.startswith('def decode(content):\n    try:\n')


@pytest.mark.parametrize('args', [
    (), ((),), {}, ({},), [], [{}], ([NUMBER],), ({'%': '%b', 'x': {'y': [EIGHT]}},),
    (1, 255, True, False, None), (BYTES, (BYTES, NUMBER), BYTES), ((1, 2, 3, 4, 5), [[EIGHT]]), {'a': NUMBER},
])
def test_shape_of_any_values_is_a_pickle_of_them(args):
    """Whatever may be put into the table."""
    shape = Shape(NUMBER, True, '%s', args)

    def filled(pattern):
        if type(pattern) is dict:
            return {key: filled(value) for key, value in pattern.items()}
        if type(pattern) in (tuple, list):
            return type(pattern)(map(filled, pattern))
        return VALUES[pattern] if isinstance(pattern, tuple) else pattern

    value = filled(args)
    content = shape.encode(7, value)
    assert pickle.loads(content) == (7, True, '%s', value)
    assert repr(shape.decode(content)) == repr((7, 1, '%s', value))
    assert shape.decode(content[:-1]) is shape.decode(content + b'.') is shape.encode('7', value) is None
    assert shape.encode(7, [*value, 1]) is None
