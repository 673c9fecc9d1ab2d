"""`decoder`, `opcodes`, `allowed`: each opcode, and everything that a peer should not have sent.

Requirements S1, S5 and S5a.
"""
from __future__ import annotations

import pickle
import pickletools
import struct
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.zrpc.test_marshal import PLAIN, Z4, Z5, alike
from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import allowed, opcodes, rich
from zeo_clone.zrpc.marshal import Prefix, dumps, loads

HEAD = b'\x80\x03'


def refusal(content):
    """The complaint about a message that must be refused: short, and a ProtocolError."""
    with pytest.raises(ProtocolError, match='^message refused: ') as caught:
        loads(content)
    assert len(str(caught.value)) <= 200
    assert caught.value.__cause__ is None
    return str(caught.value)


def value_or_refusal(content):
    try:
        loads(content)
    except ProtocolError as error:
        assert len(str(error)) <= 200


# ---- opcodes ------------------------------------------------------------------------------------

@pytest.mark.parametrize(('content', 'value'), [
    # protocol 0, as Python 2 and 3 write it
    (b'N.', None), (b'I01\n.', True), (b'I00\n.', False), (b'I-17\n.', -17),
    (b'L12345678901L\n.', 12345678901),
    (b'L-3\n.', -3), (b'F1.5\n.', 1.5), (b'F-1e+20\n.', -1e20), (b'Finf\n.', float('inf')),
    (b"S'plain'\np0\n.", 'plain'), (b'S"it\'s"\n.', "it's"),
    (b"S'\\\\ \\' \\n\\t\\r \\x00\\xff'\n.", "\\ ' \n\t\r \0\xff"),
    (b"S''\n.", ''), (b'V\\u20ac caf\xe9\np1\n.', '€ café'), (b'(t.', ()), (b'(NI1\nt.', (None, 1)),
    (b'(lp0\nNaI1\na.', [None, 1]), (b"(dp0\nS'a'\nNs.", {'a': None}), (b'(Nl.', [None]),
    (b'(NI1\nd.', {None: 1}),
    (b'(Np7\ng7\nt.', (None, None)),
    # protocols 1 and 2
    (b'U\x03a\xe9b.', 'aéb'), (b'T\x02\0\0\0\xff\0.', 'ÿ\0'), (b'K\xff.', 255), (b'M\xff\xff.', 65535),
    (b'J\xff\xff\xff\xff.', -1), (b'G?\xf8\0\0\0\0\0\0.', 1.5), (b'X\x02\0\0\0\xc3\xa9.', 'é'),
    (b'].', []), (b'}.', {}), (b').', ()), (b']Na.', [None]), (b'](NNe.', [None, None]),
    (b'}NNs.', {None: None}), (b'}(K\1K\2u.', {1: 2}), (b'(NNq\5r\6\0\0\0h\5j\6\0\0\0t.', (None,) * 4),
    (b'\x80\x02\x88.', True), (b'\x80\x02\x89.', False), (b'\x80\x02N\x85.', (None,)),
    (b'\x80\x02NK\1\x86.', (None, 1)), (b'\x80\x02NK\1K\2\x87.', (None, 1, 2)),
    (b'\x80\x02\x8a\0.', 0), (b'\x80\x02\x8a\2\xff\0.', 255), (b'\x80\x02\x8b\1\0\0\0\xff.', -1),
    # protocol 3
    (b'\x80\x03C\3a\0b.', b'a\0b'), (b'\x80\x03B\2\0\0\0ab.', b'ab'),
    # protocols 4 and 5
    (b'\x80\x04\x95\2\0\0\0\0\0\0\0N.', None), (b'\x80\x04\x8c\2\xc3\xa9.', 'é'),
    (b'\x80\5\x8d\1\0\0\0\0\0\0\0a.', 'a'),
    (b'\x80\x04\x8e\1\0\0\0\0\0\0\0a.', b'a'), (b'\x80\x04\x8f.', set()),
    (b'\x80\x04\x8f(K\1K\2\x90.', {1, 2}),
    (b'\x80\x04(K\1\x91.', frozenset({1})), (b'\x80\x04(N\x94K\7\x94h\0h\1t.', (None, 7, None, 7)),
])
def test_an_opcode_means_what_picklers_mean_by_it(content, value):
    assert alike(loads(content), value)
    assert alike(pickle.loads(content, encoding='latin-1'), value)


@pytest.mark.parametrize(('content', 'value'), [
    (b"(I1\nI00\nS'vote'\np1\n(I5\ntp2\nt.", (1, False, 'vote', (5,))),
    (b'(K\1I00\nU\x04voteq\1(U\x08\0\0\0\0\0\0\0\x01tq\2t.', (1, False, 'vote', ('\0\0\0\0\0\0\0\1',))),
    (b'\x80\x02(K\1\x89U\5storeC'.replace(b'C', b'U\x08\0\0\0\0\0\0\0\xff') + b't.',
    (1, False, 'store', '\0' * 7 + 'ÿ')),
    (b'\x80\x02](' + b'U\x08abcdefg\xff' * 2000 + b'e.', ['abcdefgÿ'] * 2000),
])
def test_messages_of_python_2_peers_have_text_for_strings(content, value):
    """S5a: 8-character strings of old clients; whoever wants an oid takes them as such."""
    assert alike(loads(content), value)


def test_every_opcode_is_either_understood_or_refused_by_its_number():
    """Those that make objects in other ways, take values back or need buffers are not for messages."""
    refused = {opcode.name for opcode in pickletools.opcodes
               if 'is not allowed' in refusal(HEAD + b'NN' + opcode.code.encode('latin-1'))}
    assert refused == {
        'PROTO', 'POP', 'POP_MARK', 'DUP', 'INST', 'OBJ', 'PERSID', 'BINPERSID', 'EXT1', 'EXT2', 'EXT4',
        'NEWOBJ_EX', 'BYTEARRAY8', 'NEXT_BUFFER', 'READONLY_BUFFER'}
    assert refusal(HEAD + b'0.') == 'message refused: opcode 0x30 at byte 2 is not allowed'


@pytest.mark.parametrize('content', [
    b'', b'\x80', b'\x80\x03', b'\x80\x06N.', b'\x7fN.', b'.', b'N', b'NN.', b'(N.', b'(.', b'N.N',
    b'N..', b't.', b'Nt.',
    b'N\x86.', b'NN\x87.', b'\x85.', b'a.', b'Na.', b'NNa.', b'(NNe.', b'N(Ne.', b']Ns.', b'NNs.',
    b'NNNs.', b'}(Nu.', b'(Nd.',
    b'K', b'M\1', b'J\1\1', b'G\0', b'C', b'C\5ab.', b'X\1\0', b'X\5\0\0\0ab.', b'X\1\0\0\0\xff.',
    b'B\5\0\0\0ab.',
    b'\x8a', b'\x8a\5ab.', b'q', b'q\0.', b'h', b'h\0.', b'N\x94h\1.', b'NJ\0', b'pa\n.', b'Np\n.',
    b'g\n.', b'g1.',
    b'I\n.', b'I1', b'I1_0\n.', b'I 1\n.', b'I--1\n.', b'I0x1\n.', b'I\xd9\xa1\n.', b'L\n.', b'L1LL\n.',
    b'L\xff\n.',
    b'F\n.', b'F1_0\n.', b'Fabc\n.', b'F 1\n.', b'F0x1p3\n.', b'F' + b'1' * 50 + b'\n.',
    b'Sabc\n.', b"S'abc\n.", b"S'\n.", b"S'\\q'\n.", b"S'\\x1'\n.", b"S'\\'\n.", b'V\\u12\n.',
    b'V\\ud800\n.', b'V\\U00110000\n.',
    b'\x8e' + b'\xff' * 8 + b'.', b'\x8d' + b'\xff' * 8 + b'.', b'\x95\0', b'(N\x90.', b'](N\x90.',
    b'\x8f(]\x90.', b'(]\x91.',
])
def test_a_message_that_is_none_is_refused(content):
    """S5.  Truncation, rubbish after the end, missing operands, text that is none, wrong targets."""
    refusal(content)
    refusal(HEAD + content)


# ---- any bytes (S5) -----------------------------------------------------------------------------

def test_a_recorded_message_cut_anywhere_is_refused():
    for frame in {*Z4, *Z5}:
        for end in range(len(frame)):
            refusal(frame[:end])


def test_a_recorded_message_with_any_byte_changed_is_a_value_or_refused():
    for frame in {*Z4, *Z5}:
        for place, byte in enumerate(frame):
            for other in (byte ^ 1, byte ^ 0x80, ord('('), ord('R')):
                value_or_refusal(frame[:place] + bytes([other]) + frame[place + 1:])


def test_two_recorded_messages_glued_together_are_refused():
    for first, second in zip(PLAIN, PLAIN[1:], strict=False):
        assert 'does not end with its one value' in refusal(first + second[2:])


NAMES = [f'c{module}\n{name}\n'.encode() for module, name in allowed.ALLOWED]
CODES = [bytes([code]) for code in (*opcodes.REST, *b'(tuesa])}N.', 0x85, 0x86, 0x87, 0x88, 0x89)]
PIECES = st.one_of(
    st.sampled_from([*CODES, *NAMES, b'(', b'(', b'R', b'\x81', b'b', b'q\0', b'q\1', b'h\0', b'h\1',
    b'p2\n', b'g2\n', b'K\1',
                     b'C\x08abcdefgh', b'X\4\0\0\0path', b'X\6\0\0\0latin1', b"S'a'\n", b'Va\n', b'I1\n',
                     b'\x8c\1a',
                     b'G\x7f\xf8\0\0\0\0\0\0', b'\x8a\x09' + b'\xff' * 8 + b'\x7f']),
    st.binary(max_size=3))


@settings(deadline=None, max_examples=500)
@given(st.lists(PIECES, max_size=25).map(b''.join), st.sampled_from([b'.', b't.', b'']))
def test_opcodes_in_any_order_are_a_value_or_refused(content, end):
    value_or_refusal(HEAD + content + end)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_refused(content):
    value_or_refusal(content)
    value_or_refusal(HEAD + content)


# ---- names (S1) ---------------------------------------------------------------------------------

@pytest.mark.parametrize('module',
['antigravity', 'this', 'turtledemo', 'idlelib', 'os', 'builtins', 'zodbpickle'])
@pytest.mark.parametrize('form', [
    'c{0}\nsystem\n.', 'c{0}\nsystem\n(X\1\0\0\0atR.', 'c{0}\nsystem\n)\x81.',
    '\x8c{1}{0}\x8c\6system\x93)R.',
    'V{0}\nVsystem\n\x93.', '({0}\nsystem\n', 'i{0}\nsystem\n.'])
def test_a_name_outside_the_list_imports_nothing_and_calls_nothing(module, form):
    """S1."""
    before = dict(sys.modules)
    refusal(HEAD + form.format(module, chr(len(module))).encode('latin-1'))
    assert dict(sys.modules) == before


def test_only_exact_pairs_are_on_the_list():
    """S1: never a whole module, no attribute of a listed class, no nearby spelling."""
    assert len(allowed.ALLOWED) == 17 + len(rich.MAKERS) + 3  # UUID, and two names of Python 2
    for module, name in allowed.ALLOWED:
        for other in ((module, name + '.__init__'), (module + '.' + name, '__init__'), (module, 'eval'),
                      (name, module), (module + ' ', name), (module, name + '\0'),
                      (module.upper(), name)):
            if other not in allowed.ALLOWED:
                assert 'is not on the list' in refusal(HEAD + 'c{}\n{}\n.'.format(*other).encode())


def test_a_refused_name_is_shown_short_and_without_control_characters():
    complaint = refusal(HEAD + b'cod\xc3\xa9\r\x1b[31m\n' + b'x' * 90 + b'\n.')
    assert complaint.isascii()
    assert complaint.isprintable()
    assert refusal(b'c' + b'x' * 1000 + b'\nname\n.').endswith('a line of text is cut off or too long')


SET, FROZENSET = b'cbuiltins\nset\n', b'c__builtin__\nfrozenset\n'
BINARY, BYTES, OBJECT = b'czodbpickle\nbinary\n', b'c__builtin__\nbytes\n', b'c__builtin__\nobject\n'
ENCODE, PREFIX = b'c_codecs\nencode\n', b'cZopeUndo.Prefix\nPrefix\n'
RECONSTRUCT = b'ccopy_reg\n_reconstructor\n'


@pytest.mark.parametrize(('content', 'value'), [
    (SET + b'](K\1K\2e\x85R.', {1, 2}), (FROZENSET + b']\x85R.', frozenset()),
    (BINARY + b'C\2ab\x85R.', b'ab'), (BINARY + b')R.', b''), (BINARY + b'C\2ab\x85\x81.', b'ab'),
    (b'(' + BINARY[:-1] + b'\nC\2ab\x85\x81q\0h\0t.', (b'ab', b'ab')),
    (RECONSTRUCT + BINARY + BYTES + b'C\2ab\x87R.', b'ab'), (BYTES + b')R.', b''),
    (ENCODE + b'X\3\0\0\0a\xc3\xbfX\6\0\0\0latin1\x86R.', b'a\xff'),
])
def test_a_listed_name_makes_a_plain_value(content, value):
    assert alike(loads(HEAD + content), value)


@pytest.mark.parametrize('content', [
    SET, SET + b'\x85.', b']' + SET + b'a\x85', b'}N' + SET + b's', b'}' + SET + b'Ns',
    b'(' + SET + b'\x91', b']' + SET + b'q\0ah\0\x86',
    SET + b')R', SET + b'K\1\x85R', SET + b'X\1\0\0\0a\x85R', SET + b']N\x86R', SET + b'](]e\x85R',
    SET + b']R', SET + b']\x85\x81', b'N)R', b'N)\x81',
    BINARY + b'N\x85R', BINARY + b'X\1\0\0\0a\x85R', BINARY + b'C\1aC\1b\x86R', BYTES + b'K\5\x85R',
    BYTES + b'C\1a\x85R', BYTES + b')\x81',
    OBJECT + b')R', OBJECT + b')\x81', RECONSTRUCT + OBJECT + OBJECT + b'N\x87R',
    RECONSTRUCT + PREFIX + OBJECT + b'K\1\x87R',
    RECONSTRUCT + BINARY + BYTES + b'N\x87R', RECONSTRUCT + SET + OBJECT + b'N\x87R',
    RECONSTRUCT + b')R', RECONSTRUCT + b'NNN\x87R',
    ENCODE + b'X\1\0\0\0aX\3\0\0\0hex\x86R', ENCODE + b'X\1\0\0\0a\x85R',
    ENCODE + b'C\1aX\6\0\0\0latin1\x86R',
    ENCODE + b'X\3\0\0\0\xe2\x82\xacX\6\0\0\0latin1\x86R', PREFIX + b'K\1\x85R', PREFIX + b')\x81Nb',
    PREFIX + b')\x81)b', PREFIX + b')\x81}b',
    PREFIX + b')\x81}X\4\0\0\0pathNsb', PREFIX + b')\x81}X\4\0\0\0path]Nasb', b']}b', b'N}b', b'}}b',
    SET + b'}b', b']' + PREFIX + b')\x81\x85a)R',
    PREFIX + b')\x81}X\4\0\0\0path](' + b'C\0' * 300 + b'esb', b'}' + PREFIX + b')\x81Ns',
    b'X\2\0\0\0osN\x93', b']X\6\0\0\0system\x93',
])
def test_a_listed_name_does_nothing_else(content):
    """S1, S5a: exact argument types, looked at before anything is hashed; no class is ever a value."""
    refusal(HEAD + content + b'.')


def test_the_oldest_form_of_a_prefix_is_taken():
    [prefix] = loads(HEAD + PREFIX + b')\x81}X\5\0\0\0valueX\2\0\0\0/asb\x85.')
    assert type(prefix) is Prefix
    assert prefix == '/a'
    assert loads(HEAD + PREFIX + b')\x81}X\4\0\0\0path](C\0C\1\xe9esb.') == '/é'


# ---- bombs (S5a) ----------------------------------------------------------------------------------

MB = 1_000_000
NUMBERS = b''.join(b'J' + struct.pack('<i', n) for n in range(1000))


def twice_each(levels, empty, pair):
    pairs = b''.join(pair % (n, n) + b'q%c' % (n + 1) for n in range(levels))
    return b'(' + empty + b'q\0' + pairs + b't'


BOMBS = {
    'values are nested too deeply': {
        'tuples': b')' + b'\x85' * MB,
        'tuples of two': b')' + b'N\x86' * MB,
        'marks': b'(' * MB,
        'tuples of protocol 0': b'(' * MB + b't' * MB,
    },
    'too many values wait for their container': {
        'nested lists': b']' * MB + b'a' * (MB - 1),
        'nested lists of protocol 0': b'(l' * MB + b'a' * (MB - 1),
        'nested dicts': b'}N' * MB + b'N' + b's' * MB,
        'nested sets': b'\x8f' * MB,
    },
    'a memo number is too large': {
        '4 billion': b'Nr\xff\xff\xff\xff',
        'as text': b'Np' + b'9' * 50 + b'\n',
    },
    'it is cut off': {
        'bytes of 4 GB': b'B\xff\xff\xff\xffabc',
        'text of 4 GB': b'X\xff\xff\xff\xffabc',
        'old text of 4 GB': b'T\xff\xff\xff\xffabc',
        'bytes of 16 EB': b'\x8e' + b'\xff' * 8 + b'abc',
    },
    'an integer is too long': {
        'of 2 GB': b'\x8b\xff\xff\xff\x7fabc',
        'of 255 bytes': b'\x8a\xff' + b'\x7f' * 255,
    },
    'a line of text is cut off or too long': {
        'an integer': b'L' + b'9' * MB + b'L\n',
        'a float': b'F' + b'9' * MB + b'\n',
    },
    'it shares values too often': {
        'tuples': twice_each(28, b')', b'h%ch%c\x86'),
        'lists': twice_each(28, b']', b'](h%ch%ce'),
        'dicts': twice_each(28, b'}', b'}(Nh%cK\1h%cu'),
        'one list': b'(](' + NUMBERS + b'eq\0(' + b'h\0' * 1000 + b'tt',
    },
    'it copies values too often': {
        'bytes': b'(X\x10\x27\0\0' + b'x' * 10_000 + b'q\0(' + (
            ENCODE + b'h\0X\6\0\0\0latin1\x86R') * 1000 + b'tt',
        'sets': b'(](' + NUMBERS + b'eq\0(' + (FROZENSET + b'h\0\x85R') * 1000 + b'tt',
    },
    'a huge integer as a key': {
        'all with one hash': b'}(' + b''.join(
            b'\x8a\x1f' + ((2 ** 61 - 1) * n).to_bytes(31, 'little') + b'N' for n in range(1000)) + b'u',
    },
    'too many tuples as keys': {
        'all with one hash': b'}(' + b'K\1K\1\x86N' * 1000 + b'u',
    },
    'a nested or long tuple as a key': {
        'long': b'((' + NUMBERS + b'tq\0}(' + b'h\0N' * 50 + b'ut',
        'deep': b'(' + b')' + b'\x85' * 20 + b'q\0}h\0Nst',
    },
}


@pytest.mark.parametrize(('complaint', 'name'), [(key, name) for key in BOMBS for name in BOMBS[key]])
def test_a_bomb_is_refused_for_less_than_a_megabyte(complaint, name):
    """S5a.  What came is not counted, only what decoding adds to it."""
    content = HEAD + BOMBS[complaint][name] + b'.'
    refusal(HEAD + b'p.')               # what is made only once is made now
    tracemalloc.start()
    try:
        assert complaint in refusal(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MB


@pytest.mark.parametrize('content', [
    b']q\0h\0a', b']q\0(h\0e', b'}q\0Nh\0s', b'}q\0(Nh\0u', b'\x8fq\0(h\0\x90',
    b']q\0h\0\x85a', b']q\0}Nh\0sa', b']q\0\x85h\0Na\x86', b'}q\0\x85h\0NNs\x86',
    b'\x8fq\0\x85h\0(N\x90\x86'])
def test_no_value_contains_itself_or_changes_after_it_was_put_away(content):
    assert 'is finished' in refusal(HEAD + content + b'.')


def test_bounds_count_what_was_sent_not_what_is_usual():
    """Just within each bound is fine, one more is refused."""
    assert loads(HEAD + b')' + b'\x85' * 32 + b'.')
    assert 'nested too deeply' in refusal(HEAD + b')' + b'\x85' * 33 + b'\x85.')
    assert loads(b'L%d\n.' % (2 ** 255 - 1)) == 2 ** 255 - 1
    assert 'too long' in refusal(b'L%d\n.' % 2 ** 255)
    assert len(loads(HEAD + b'(' + b'N' * 999_996 + b't.')) == 999_996
    assert 'more than 1000000 opcodes' in refusal(HEAD + b'(' + b'N' * 999_998 + b't.')
    assert 'too many values wait' in refusal(HEAD + b'(' + b'N' * 2049 + b']t.')
    many = b'](' + b']' * 1000 + b'e'
    assert 'more than 100000 containers' in refusal(HEAD + b'(' + many * 101 + b't.')
    assert 'a memo number' in refusal(HEAD + b'Nr' + struct.pack('<I', opcodes.MAX_MEMO) + b'.')


def test_keys_of_a_kind_that_can_be_chosen_to_collide_are_few():
    """S5a: strings have hashes that nobody outside can foresee; of others only a few share one."""
    fine = {**{str(n): n for n in range(5000)}, **{n: n for n in range(5000)}, 1.5: 0, None: 1, True: 2}
    assert alike(loads(dumps(fine)), fine)
    assert len(loads(pickle.dumps({(1, n): None for n in range(128)}, 2))) == 128
    for content in (pickle.dumps({(1, n): None for n in range(129)}, 2), pickle.dumps({2 ** 63: 1}, 2),
                    pickle.dumps({tuple(range(9)): 1}, 2), pickle.dumps({(n,) for n in range(129)}, 4),
                    pickle.dumps(frozenset({(2 ** 64,)}), 4)):
        refusal(content)
