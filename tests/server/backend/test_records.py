"""The decoder of records: what ZODB writes comes out as ZODB reads it; anything else is refused, cheaply."""
from __future__ import annotations

import datetime
import io
import re
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import pytest
from BTrees.OOBTree import OOBucket
from ZODB.ConflictResolution import PersistentReference
from zodbpickle import pickle

from tests.support.record_fuzz import Reference, record, some_values
from zeo_clone.server.backend.family import Family, Refused
from zeo_clone.server.backend.records import MAX_DEPTH, class_of, read
from zeo_clone.server.backend.resolvable import Resolvable

OID = b'\0\0\0\0\0\0\0\x07'
CLASS = b'\x80\x03cBTrees.OOBTree\nOOBucket\nq\x00.'
MB = 1 << 20


class Money:
    """A value that an operator may allow."""

    def __init__(self, amount):
        self.amount = amount

    def __eq__(self, other):
        return type(other) is Money and other.amount == self.amount

    __hash__ = None


class Slotted:
    """One without a dict."""

    __slots__ = ('amount',)

    def __eq__(self, other):
        return type(other) is Slotted and other.amount == self.amount

    __hash__ = None


def family(*keys):
    return Family(Resolvable(keys).maker)


def state_of(data, *keys):
    return read(data, family(*keys)).state


def refused(state, *keys):
    """Why `state`, a pickle, is refused."""
    with pytest.raises(Refused) as caught:
        read(CLASS + b'\x80\x03' + state, family(*keys))
    return str(caught.value)


def as_zodb_reads_it(data):
    """The state of a record whose names are all real."""
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = PersistentReference
    unpickler.load()
    return unpickler.load()


def same(ours, zodbs):
    """Equal, and of the same types all the way down."""
    if type(ours) is not type(zodbs):
        return False
    if type(ours) in (list, tuple):
        return len(ours) == len(zodbs) and all(map(same, ours, zodbs))
    if type(ours) is dict:
        return same(list(ours.items()), list(zodbs.items()))
    if type(ours) is PersistentReference:
        return ours.oid == zodbs.oid and ours.database_name == zodbs.database_name and ours.weak == zodbs.weak
    return ours == zodbs


@pytest.mark.parametrize('protocol', [1, 2, 3])
def test_values_are_those_that_zodb_reads(protocol):
    """S9: of all kinds, alone and in one another, shared ones too."""
    values = some_values(protocol)
    values += [float('inf'), -2 ** 200, '\ud800', 'ü', '', b'', (), [], {}, set(), 256, 65536, -1,
               Fraction(1, 3), datetime.timezone(datetime.timedelta(hours=1), 'CET'), datetime.time(1, 2, 3),
               {1: 2, (3, 'x'): [4]}, {datetime.date(2020, 1, 1), Decimal(1)}]
    for state in (*values, values, tuple(values), [values[5]] * 3, [values] * 2):
        data = record(OOBucket, state, protocol)
        assert same(state_of(data), as_zodb_reads_it(data)), state


@pytest.mark.parametrize('state', [
    b'I5\n.', b'I01\n.', b'L-5L\n.', b'F1.5\n.', b"S'a\\x41\\n'\n.", b'Va\\u1234\n.', b'U\1a.',
    b'T\1\0\0\0a.', b'(K\1K\2l.',
    b'(K\1K\2d.', b'}K\1K\2s.', b']K\1a.', b'(Np5\ng5\nt.', b'\x8b\1\0\0\0\5.', b'B\1\0\0\0a.',
    b'(cdatetime\ndate\nC\4\7\xe4\1\1o.', b'(C\4\7\xe4\1\1idatetime\ndate\n.',
])
def test_forms_of_old_picklers_are_read_as_zodb_reads_them(state):
    """S9."""
    data = CLASS + state
    assert same(state_of(data), as_zodb_reads_it(data))


@pytest.mark.parametrize('first', [
    b'\x80\x03cBTrees.OOBTree\nOOBucket\nq\x00.', b'cBTrees.OOBTree\nOOBucket\nq\x00.',
    b'(cBTrees.OOBTree\nOOBucket\nq\x00Ntq\x01.', b'\x80\x03cBTrees.OOBTree\nOOBucket\nq\x00)\x86q\x01.',
    b'((U\x0eBTrees.OOBTreeU\x08OOBuckettNt.',
])
def test_a_class_is_known_in_each_form_that_zodb_has_had(first):
    """S9."""
    found = read(first + b'K\x05.', family())
    assert (found.name, found.args, found.state) == (('BTrees.OOBTree', 'OOBucket'), (), 5)
    assert class_of(first) == ('BTrees.OOBTree', 'OOBucket')


@pytest.mark.parametrize(('data', 'weak', 'database'), [
    (OID, False, None), ((OID, OOBucket), False, None), ([OID], True, None), (['w', (OID,)], True, None),
    (['w', (OID, 'other')], True, 'other'), (['n', ('other', OID)], False, 'other'),
    (['m', ('other', OID, OOBucket)], False, 'other'), ('ABCDEFGH', False, None),
    ((OID, ('gone.module', 'Gone')), False, None), ((OID, None), False, None),
])
def test_a_reference_is_what_zodb_makes_of_it_and_its_class_a_pair_of_texts(data, weak, database):
    """S9: equal ones are one object in all records of a conflict, as some of ZODB's methods want it."""
    together = family()
    found, again = (read(record(OOBucket, Reference(data)), together).state for _ in range(2))
    assert found is again
    assert (type(found), found.weak, found.database_name) == (PersistentReference, weak, database)
    assert found.oid == (OID if data != 'ABCDEFGH' else b'ABCDEFGH')
    assert found.klass in (None, ('BTrees.OOBTree', 'OOBucket'), ('gone.module', 'Gone'))


@pytest.mark.parametrize('state', [
    b'K\5Q.', b'C\7abcdefgQ.', b'(C\x08' + OID + b'tQ.', b'C\x08' + OID + b'K\5\x86Q.',
    b'](X\1\0\0\0xC\x08' + OID + b'\x85eQ.',
    b'](X\1\0\0\0wC\x08' + OID + b'X\1\0\0\0xN\x87eQ.', b'](X\1\0\0\0nK\5C\x08' + OID + b'\x86eQ.',
    b'X\x08\0\0\0' + b'\xc3\xbc' * 4 + b'Q.',
])
def test_what_is_no_reference_is_refused(state):
    """S9."""
    assert refused(state)


def test_objects_of_a_class_that_is_allowed_are_made_as_unpicklers_make_them():
    """S9."""
    slotted = Slotted()
    slotted.amount = 7
    for protocol in (1, 2, 3):
        state = [Money(5), {'x': Money([1])}]
        data = record(OOBucket, state + [slotted] * (protocol > 1), protocol)
        assert state_of(data, f'{__name__}.*') == state + [slotted] * (protocol > 1)
        with pytest.raises(Refused, match=f'it holds a {__name__}.Money') as caught:
            read(data, family())
        assert caught.value.name == (__name__, 'Money')


def test_time_zones_of_pytz_are_those_of_pytz():
    """S9."""
    pytz = pytest.importorskip('pytz')
    rome = pytz.timezone('Europe/Rome')
    state = [pytz.utc, rome, rome.localize(datetime.datetime(2020, 7, 1)), pytz.timezone('Etc/GMT+1'),
             pytz.FixedOffset(60), datetime.datetime(2020, 1, 1, tzinfo=pytz.utc)]
    found = state_of(record(OOBucket, state))
    assert found == state
    assert found[0] is pytz.utc
    before = len(rome._tzinfos)
    assert 'KeyError' in refused(b'cpytz\n_p\n(X\x0b\0\0\0Europe/RomeM\x34\x12K\0X\3\0\0\0XXXtR.')
    assert len(rome._tzinfos) == before  # pytz would have kept that offset for ever


def test_values_of_zope_are_those_of_zope():
    """S9: times, and what its catalogs have where nothing is known."""
    DateTime = pytest.importorskip('DateTime').DateTime
    Missing = pytest.importorskip('Missing')
    state = (DateTime('2020/01/02 10:00:00 Europe/Rome'), Missing.V, DateTime(0))
    for protocol in (1, 2, 3):
        found = state_of(record(OOBucket, state, protocol))
        assert found == state
        assert found[1] is Missing.V
        assert found[0].timezone() == state[0].timezone()


@pytest.mark.parametrize(('state', 'why'), [
    (b'cos\nsystem\nX\1\0\0\0x\x85R.', 'it holds a os.system'),
    (b'cbuiltins\neval\nX\1\0\0\0x\x85R.', 'it holds a builtins.eval'),
    (b'cos\nsystem\n.', 'a class stands where'), (b'(cos\nsystem\nt.', 'a class stands where'),
    (b'}X\1\0\0\0acos\nsystem\ns.', 'a class stands where'),
    (b'cdatetime\ndate\n(cos\nsystem\ntR.', 'a class stands'),
    (b'cbuiltins\ngetattr\ncos\nsystem\nX\1\0\0\0x\x86R.', 'it holds a builtins.getattr'),
    (b'X\1\0\0\0xcos\nsystem\n\x85R.', 'calls something that is not a name'), (b'NNR.', 'calls something'),
    (b'cBTrees.OOBTree\nOOBTree\n)\x81.', 'it holds a BTrees'),
    (b'cBTrees.OOBTree\nOOBTree\n)R.', 'it holds a BTrees'),
    (b'ccopyreg\n_reconstructor\n(cos\nsystem\ncbuiltins\nobject\nNtR.', 'it holds a os.system'),
    (b'ccopyreg\n_reconstructor\n(cuuid\nUUID\ncbuiltins\nint\nK\5tR.', 'unusual way'),
    (b'ccopyreg\n__newobj__\ncos\nsystem\n\x85R.', 'it holds a os.system'), (b'\x82\1.', 'opcode 0x82'),
    (b'N}b.', 'gives a state'), (b']}b.', 'gives a state'),
    (b'cuuid\nUUID\n)\x81}b.', 'cannot be read: KeyError'),
    (b'cuuid\nUUID\n)\x81}X\3\0\0\0intX\1\0\0\0xsb.', 'a UUID that is none'),
    (b'cuuid\nUUID\nN\x85\x81.', 'UUID with arg'),
    (b'cdecimal\nDecimal\nX\x0f\0\0\x001e9999999999999\x85R.', 'a decimal number of something else'),
    (b'cfractions\nFraction\nX\x09\0\0\x001e9999999\x85R.', 'a fraction of something else'),
    (b'cbuiltins\nset\n](]eq\1\x85R.', 'of a type that may not be one'),
    (b'cbuiltins\nset\nX\1\0\0\0x\x85R.', 'a set of something'),
    (b'cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.', 'bytes of something else'),
    (b'c_codecs\nencode\nX\1\0\0\0xX\3\0\0\0hex\x86R.', 'bytes of'),
    (b'cdatetime\ndatetime\n)R.', 'cannot be read'),
    (b'cdatetime\ntimedelta\nG12345678NN\x87R.', 'a time span of'),
    (b']q\1h\1a.', 'contains itself'), (b'}q\1Nh\1s.', 'contains itself'), (b'}]Ns.', 'may not be one'),
    (b'}((]ttNs.', 'may not|nested'),
    (b'N2.', 'opcode 0x32'), (b'N0.', 'opcode 0x30'), (b'Pabc\n.', 'opcode 0x50'),
    (b'NN.', 'does not end with one value'),
    (b'(N.', 'does not end'), (b'.', 'does not end'), (b'N', 'cannot be read: IndexError'),
    (b'h\1.', 'cannot be read: KeyError'),
    (b'r\0\0\0\0.', 'cannot be read'), (b'U\1\xff.', 'cannot be read: UnicodeDecodeError'),
    (b'F1e400e\n.', 'a float is none'),
    (b'I1_0\n.', 'an integer is none'), (b'L' + b'1' * 5000 + b'L\n.', 'cannot be read'),
    (b'NNa.', 'not a list'), (b'NNNs.', 'not a dict'),
    (b'}(Nu.', 'not a dict'), (b'c' + b'x' * 300 + b'\nx\n.', 'cannot be read'), (b'S1\n.', 'without quotes'),
])
def test_what_no_state_holds_is_refused(state, why):
    """S9, S5a: nothing is called or imported, whatever is named."""
    assert re.search(why, refused(state))


@pytest.mark.parametrize('data', [b'', b'N.N.', b'K\1.N.', b'(cBTrees.OOBTree\nOOBucket\nK\1t.N.',
b')N.', CLASS, CLASS[:-1],
                                  b'cBTrees.OOBTree\nOOBucket\n', b'((K\1K\2tNt.N.'])
def test_what_is_no_record_is_refused(data):
    """S9."""
    with pytest.raises(Refused):
        read(data, family())


SHARED = b'K\1\x85q\1' + b''.join(b'h%ch%c\x86q%c' % (number, number, number + 1) for number in range(1, 60))
MANY_DATES = b''.join(b'cdatetime\ndate\nC\4\7\xe4\1%c\x85R' % (1 + number % 28) for number in range(200))
#: All with one hash.
ALIKE = b''.join(b'\x8a\x10%bN' % (number * (2 ** 61 - 1)).to_bytes(16, 'little') for number in range(1000))


@pytest.mark.parametrize(('state', 'why'), [
    (b'}' + b')' + b'\x85' * 100_000 + b'Ns.', 'nested too deeply'),
    (b'(' * 100_000 + b't' * 100_000 + b'.', 'nested too deeply'),
    (b']' * 100_000 + b'.', '50000 containers'), (b'(' + b'N' * 300_000 + b't.', '200000 opcodes'),
    (b'(' + SHARED + b't.', 'shares values too often'), (b'Nr\x00\x5a\x62\x02.', 'memo number'),
    (b'Np40000000\n.', 'memo number'),
    (b'B\xff\xff\xff\xffabc.', 'cut off'), (b'\x8b\xff\xff\xff\x7f.', 'an integer is too long'),
    (b'X\xff\xff\xff\xffabc.', 'IndexError'),
    (b'X\x10\x27\0\0' + b'x' * 10_000 + b'q\1(' + b'h\1' * 1000 + b't.', 'shares values too often'),
    (b'}(' + b''.join(b'(M%btN' % n.to_bytes(2, 'little') for n in range(1000)) + b'u.', 'too many tuples'),
    (b'cbuiltins\nset\n](' + MANY_DATES + b'e\x85R.', 'too many dates'),
    (b'}(' + ALIKE + b'u.', 'huge integer'),
])
def test_costly_states_are_refused_before_they_cost(state, why):
    """S9: neither time nor memory is spent on what is announced or shared.  (Else this would not end.)"""
    tracemalloc.start()
    try:
        assert why in refused(state)
        assert tracemalloc.get_traced_memory()[1] < 10 * MB + 10 * len(state)
    finally:
        tracemalloc.stop()


def test_a_record_beyond_the_size_is_not_even_looked_at():
    """S9."""
    with pytest.raises(Refused, match='more than 16777216 bytes'):
        read(CLASS + b'N' * (17 * MB), family())


def test_states_as_deep_as_real_ones_get_are_read():
    value = 1
    for _ in range(MAX_DEPTH - 1):
        value = [value]
    assert state_of(record(OOBucket, value)) == value
    assert 'too deeply' in refused(pickle.dumps([value], 3)[2:])
