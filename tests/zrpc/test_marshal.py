"""`marshal`: values to the bytes of a message and back; what cannot be encoded."""
from __future__ import annotations

import collections
import enum
import io
import json
import math
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ZODB import POSException

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import allowed, marshal
from zeo_clone.zrpc.marshal import ENCODE_ERRORS, Call, Global, ListEncoder, Prefix, dumps, loads

OID = bytes(range(8))
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def frames(name):
    """The recorded messages of a transcript, without the greetings."""
    path = Path(__file__).parent.parent / 'data' / f'{name}.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    contents = [bytes.fromhex(line['frame']) for line in lines if 'frame' in line]
    return [content for content in contents if content not in (b'Z4', b'Z5')]


def names_a_class(frame):
    return b'cZODB.POSException\n' in frame


Z5, Z4 = frames('z5-zeo-6.2'), frames('z4-zeo-4.3.1')
PLAIN = [frame for frame in Z5 + Z4 if not names_a_class(frame)]

texts = st.text(st.characters(exclude_categories=['Cs']), max_size=300)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2 ** 255, 2 ** 255 - 1), st.integers(-70000, 70000),
    st.floats(allow_nan=False), texts, st.binary(max_size=300), st.binary(min_size=8, max_size=8))
simple_keys = st.one_of(st.none(), st.booleans(), st.integers(-2 ** 62, 2 ** 62), texts,
                        st.floats(allow_nan=False), st.binary(max_size=20))
keys = st.one_of(simple_keys, st.lists(simple_keys, max_size=4).map(tuple))
values = st.recursive(
    st.one_of(scalars, st.sets(keys, max_size=5), st.frozensets(keys, max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.lists(inner, max_size=6).map(tuple),
        st.dictionaries(keys, inner, max_size=6)),
    max_leaves=30)


def alike(left, right):
    """Equal, and of the same types all the way down: ``1 == 1.0 == True`` is not enough."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(map(alike, left, right))
    if isinstance(left, dict):
        return all(map(alike, left.items(), right.items()))
    return True


# ---- what real peers send -----------------------------------------------------------------------

def test_every_recorded_message_decodes_as_its_sender_meant():
    assert len(PLAIN) == 224
    for frame in PLAIN:
        assert alike(loads(frame), pickle.loads(frame))


def test_every_recorded_message_is_encoded_byte_for_byte_as_zeo_does():
    for frame in PLAIN:
        assert dumps(pickle.loads(frame)) == frame


def test_exceptions_that_a_z4_server_pickles_are_refused():
    """S1: our client never talks to such a server."""
    refused = [frame for frame in Z4 if names_a_class(frame)]
    assert len(refused) == 2
    for frame in refused:
        with pytest.raises(ProtocolError, match=r"'ZODB\.POSException\.POSKeyError' is not on the list"):
            loads(frame)


# ---- round trips --------------------------------------------------------------------------------

@settings(deadline=None, max_examples=150)
@given(values)
def test_what_is_encoded_decodes_to_the_same(value):
    content = dumps(value)
    assert alike(loads(content), value)
    assert alike(pickle.loads(content), value)


@settings(deadline=None, max_examples=100)
@given(values, st.sampled_from(PROTOCOLS))
def test_what_any_pickler_writes_decodes_to_the_same(value, protocol):
    """Protocols 0 to 5, with memo; the pickler in C and the one in Python differ in their batches."""
    assert alike(loads(pickle.dumps(value, protocol)), value)
    stream = io.BytesIO()
    pickle._Pickler(stream, protocol).dump(value)
    assert alike(loads(stream.getvalue()), value)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_a_pickler_that_shares_values_is_understood(protocol):
    shared, text, oids = [OID, {'k': (1, 2)}], 'again', {b'a', b'b'}
    value = (shared, {'one': shared, text: text}, [oids, oids], (shared, shared))
    decoded = loads(pickle.dumps(value, protocol))
    assert alike(decoded, value)
    assert decoded[0] is decoded[1]['one']


def test_nothing_above_protocol_3_and_no_memo_is_sent():
    content = dumps((1, True, 'storea', (OID, b'x' * 300, 'user', [OID] * 5, {'a': {1}}, -5, 2 ** 40)))
    assert content[:2] == b'\x80\x03'
    stream = io.BytesIO()
    pickler = pickle._Pickler(stream, 3)
    pickler.fast = True
    pickler.dump(loads(content))
    assert content == stream.getvalue()


@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 999, 1000, 1001, 1024, 1025, 2100, 5000])
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_lists_of_oids_of_every_length_survive(count, protocol):
    oids = [n.to_bytes(8, 'big') for n in range(count)]
    message = (0, True, 'invalidateTransaction', (OID, oids))
    assert alike(loads(pickle.dumps(message, protocol)), message)
    assert alike(loads(dumps(message)), message)
    assert alike(loads(dumps(tuple(oids))), tuple(oids))


def test_a_run_of_oids_ends_where_something_else_begins():
    oids = [OID] * 1030
    for odd in (b'seven..', b'nine.....', 'eight...', None, (OID, OID)):
        for place in (0, 1, 3, 4, 1023, 1024, 1029):
            value = [*oids[:place], odd, *oids[place:]]
            assert alike(loads(dumps(value)), value)


@pytest.mark.parametrize('value', [
    0, 1, 255, 256, 65535, 65536, -1, -128, -129, -32768, 2 ** 31 - 1, 2 ** 31, -2 ** 31, -2 ** 31 - 1,
    2 ** 39 - 1, 2 ** 39, -2 ** 39, -2 ** 39 - 1, 2 ** 63, -2 ** 63, 2 ** 255 - 1, -2 ** 255], ids=hex)
def test_integers_are_written_as_picklers_do(value):
    assert dumps(value) == pickle.dumps(value, 3)
    for protocol in PROTOCOLS:
        assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize('value', [math.inf, -math.inf, -0.0, 1e300, 5e-324, 0.1])
def test_floats_keep_every_bit(value):
    for content in (dumps(value), *(pickle.dumps(value, protocol) for protocol in PROTOCOLS)):
        assert loads(content).hex() == value.hex()
    assert math.isnan(loads(dumps(math.nan)))


def test_strings_of_every_length_class_survive():
    for size in (0, 1, 255, 256, 65536):
        for value in (b'x' * size, 'x' * size, 'é' * size):
            for content in (dumps(value), *(pickle.dumps(value, protocol) for protocol in PROTOCOLS)):
                assert alike(loads(content), value)


@pytest.mark.parametrize('kind', [bytearray, memoryview])
def test_other_buffers_decode_like_bytes(kind):
    assert loads(kind(dumps((1, b'data')))) == (1, b'data')


# ---- what cannot be encoded (S3) -------------------------------------------------------------------

class Text(str):
    pass


class Color(enum.IntEnum):
    RED = 1


class Hostile:
    def __reduce__(self):
        raise AssertionError('the encoder must not ask an object how to pickle it')

    __getstate__ = __reduce_ex__ = __len__ = __iter__ = __eq__ = __repr__ = __reduce__
    __hash__ = None


@pytest.mark.parametrize('value', [
    Hostile(), Text('a'), Color.RED, collections.OrderedDict(), bytearray(b'a'), memoryview(b'a'),
    ValueError('x'), ValueError, print, object(), 1j, range(3), Global('os', 'system'),
    Call(Global('os', 'system'), ()), allowed.find('builtins', 'set')])
def test_a_value_of_a_class_that_messages_do_not_carry_is_a_clear_error(value):
    """S3: the RPC layer answers with it instead.  Exact types, and no code of the object is run."""
    for inside in (value, (1, value), [value], {'k': value}, [[OID] * 10, value]):
        with pytest.raises(TypeError, match='^cannot encode an object of class .'):
            dumps(inside)


def nested(depth, value=None):
    for _ in range(depth):
        value = [value]
    return value


def itself():
    value = []
    value.append(value)
    return value


def shared_often():
    value = ()
    for _ in range(30):
        value = [value, value]
    return value


@pytest.mark.parametrize(('value', 'complaint'), [
    (nested(33), 'nested more than 32 deep'),
    (nested(100_000), 'nested more than 32 deep'),
    (itself(), 'nested more than 32 deep'),
    (shared_often(), 'values'),
    ([[] for _ in range(100_001)], 'containers'),
    ((*range(3000), []), 'a tuple of more than 2048 items'),
    (2 ** 255, 'an integer of more than 32 bytes'),
    ('half \ud800', 'surrogates'),
    ({2 ** 64: 1}, 'a huge integer as a key'),
    ({((),): 1}, 'a nested or long tuple as a key'),
    ({frozenset()}, 'a key of a type'),
    ({(n,) for n in range(200)}, 'too many tuples'),
], ids=range(12))
def test_a_value_beyond_a_bound_is_a_clear_error(value, complaint):
    with pytest.raises(ValueError, match=f'^cannot encode.*{complaint}'):
        dumps(value)


def test_the_errors_of_encoding_are_those_that_it_names():
    assert set(ENCODE_ERRORS) == {TypeError, ValueError}


@pytest.mark.parametrize('value', [
    nested(32), [[] for _ in range(99_990)], tuple(range(5000)), [{}] * 5000,
    {(n,): n for n in range(128)}, {n: [] for n in range(3000)}], ids=range(6))
def test_what_is_just_within_the_bounds_is_also_decoded(value):
    assert loads(dumps(value)) == value


# ---- Prefix -------------------------------------------------------------------------------------

@pytest.fixture
def their_prefix(monkeypatch):
    """A class as the package ZopeUndo has it, importable while a test runs."""
    module = type(sys)('ZopeUndo.Prefix')

    class TheirPrefix:
        def __init__(self, path):
            self.path = path.split('/')
            self.length = len(self.path)

    TheirPrefix.__module__, TheirPrefix.__qualname__ = 'ZopeUndo.Prefix', 'Prefix'
    module.Prefix = TheirPrefix
    monkeypatch.setitem(sys.modules, 'ZopeUndo', type(sys)('ZopeUndo'))
    monkeypatch.setitem(sys.modules, 'ZopeUndo.Prefix', module)
    return TheirPrefix


@pytest.mark.parametrize('protocol', PROTOCOLS)
@pytest.mark.parametrize('path', ['/a/b', '/', ''])
def test_their_prefix_decodes_to_ours_at_every_protocol(their_prefix, protocol, path):
    [prefix] = loads(pickle.dumps({'user_name': their_prefix(path)}, protocol)).values()
    assert type(prefix) is Prefix
    assert prefix.path == path


def test_ours_and_theirs_are_sent_alike_and_understood_by_their_unpickler(their_prefix):
    content = dumps(Prefix('/a/b'))
    assert content == dumps(their_prefix('/a/b'))
    assert vars(pickle.loads(content)) == {'path': ['', 'a', 'b'], 'length': 3}


@pytest.mark.parametrize(('path', 'within'), [
    ('/a/b', True), ('/a/b/', True), ('/a/b/c', True), ('/a/b bob', True), ('/a/b/c bob', True),
    ('/a/bc', False), ('/a', False), ('/a/ b', False), ('/x/a/b', False), ('bob', False), ('', False)])
def test_a_prefix_equals_the_paths_in_its_folder(path, within):
    assert (Prefix('/a/b') == path) is within
    assert (path.encode() == Prefix('/a/b')) is within
    assert (Prefix('/a/b') != path) is not within


def test_a_prefix_equals_nothing_that_is_not_text():
    assert Prefix('/a') not in [3, None, ('/a',)]
    assert Prefix('/a') == Prefix('/a') != Prefix('/b')
    assert repr(Prefix('/a')) == "Prefix('/a')"
    with pytest.raises(TypeError, match='unhashable'):
        hash(Prefix('/a'))


# ---- lists, some items at a time ----------------------------------------------------------------

@given(st.lists(st.lists(values, max_size=5), max_size=5), st.lists(scalars, max_size=2))
def test_a_list_that_is_encoded_in_pieces_is_the_same_list(lists, before):
    encoder = ListEncoder()
    for some in lists:
        encoder.extend(some)
    encoded = encoder.encoded(*before)
    whole = [item for some in lists for item in some]
    result = loads(b'\x80\x03' + b''.join(encoded.pieces) + b'.')
    assert alike(result, (*before, whole) if before else whole)


def test_its_size_and_its_values_are_known_while_it_grows():
    """L11: who makes it knows when it is enough."""
    encoder = ListEncoder()
    for _ in range(3):
        encoder.extend([{'a': 1, 'b': b'text'}] * 2500)
    pieces = encoder.encoded().pieces
    assert encoder.size == sum(map(len, pieces))
    assert len(pieces) == 10, 'of a thousand items at most'
    assert encoder.values >= 7500 * 6


def test_what_cannot_be_encoded_is_refused_in_a_list_too():
    encoder = ListEncoder()
    with pytest.raises(TypeError, match='cannot encode'):
        encoder.extend([1, object()])


def test_a_list_that_grows_item_by_item_is_the_same_list():
    """L11: in batches of a thousand, as picklers write them."""
    for count in 0, 1, 999, 1000, 1001, 2000:
        encoder = ListEncoder()
        for number in range(count):
            encoder.add((number, [b'x']))
        encoded = encoder.encoded()
        assert encoder.count == count
        assert encoder.size == sum(map(len, encoded.pieces))
        assert loads(b'\x80\x03' + b''.join(encoded.pieces) + b'.') == [
            (number, [b'x']) for number in range(count)]


def test_many_containers_are_counted_as_the_receiver_counts_them(monkeypatch):
    """S5: what it would refuse is not sent; the exact count is taken only where it may be too many."""
    monkeypatch.setattr(marshal, 'MAX_CONTAINERS', 10)
    for value in {'a': [1], 'b': {2}}, ['x'] * 100, [frozenset((1,)), Prefix('/a')]:
        assert loads(dumps(value)) == value
    for value in [[]] * 10, {1: {2: {3: {4}}}, 5: [[], [], []]}, [{1}, {1}, {1}, {1}]:
        with pytest.raises(ValueError, match='more than 10 containers'):
            dumps(value)


@pytest.mark.parametrize('pairs', [(), ((1, 2), ('a', [3]))])
def test_a_dict_that_its_class_has_written_is_one(pairs):
    """As some picklers write those of subclasses."""
    assert loads(_dict_of(pairs)) == dict(pairs)


@pytest.mark.parametrize('pairs', [[(1, 2)], ((1, 2, 3),), ([1, 2],), (([], 2),), 5])
def test_a_dict_of_anything_else_is_refused(pairs):
    """S5, S5a."""
    with pytest.raises(ProtocolError):
        loads(_dict_of(pairs))


def _dict_of(pairs):
    return b'\x80\x03cbuiltins\ndict\n' + pickle.dumps((pairs,), 3)[2:-1] + b'R.'


def test_an_exception_in_an_exception_is_an_undo_error():
    """S1, S4: what else a server names there is not made."""
    head = b'\x80\x03cZODB.POSException\n_recon\n(cZODB.POSException\nUndoError\n'
    error = loads(head + b"}(X\7\0\0\0_reasonX\2\0\0\0noX\4\0\0\0_oidC\1xutR.")
    assert type(error) is POSException.UndoError
    for content in head + b'NtR.', head + b'}(X\7\0\0\0_reasonK\1utR.', head + b'tR.':
        with pytest.raises(ProtocolError, match='UndoError'):
            loads(content)
