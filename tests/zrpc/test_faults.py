"""`faults`: exceptions survive the trip, in the forms of ZEO 5/6 and of ZEO 4."""
from __future__ import annotations

import copy
import errno
import pickle
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ZODB import POSException
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import BlobError

from tests.zrpc.test_marshal import OID, Z4, Z5, values
from zeo_clone import Exceptions
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError, ServerException
from zeo_clone.zrpc import faults
from zeo_clone.zrpc.marshal import dumps, loads

FILE_STORAGE = sys.modules[FileStorage.__module__]
SERIALS = (b'newer...', b'older...')


def with_attribute(error, **attributes):
    vars(error).update(attributes)
    return error


#: One of each class, as ZODB's own code raises it.
STORAGE_ERRORS = [
    POSException.ConflictError(oid=OID, serials=SERIALS),
    POSException.ConflictError('own words'),
    with_attribute(POSException.ConflictError(oid=OID, serials=SERIALS), class_name='shop.Cart'),
    POSException.ReadConflictError(),
    POSException.ReadConflictError('own words', serials=SERIALS),
    POSException.BTreesConflictError(1, 2, 3, 4),
    POSException.DanglingReferenceError(OID, b'missing.'),
    POSException.UndoError('why', OID),
    POSException.UndoError('why'),
    POSException.MultipleUndoErrors([('why', OID), ('and', b'why not.')]),
    POSException.POSKeyError(OID),
    POSException.ReadOnlyError(),
    POSException.ReadOnlyError('words'),
    POSException.Unsupported('words', 3, (None, b'x')),
    POSException.StorageTransactionError('words'),
    POSException.TransactionTooLargeError('words'),
    POSException.StorageSystemError('words'),
    POSException.StorageError('words'),
    POSException.POSError('words'),
    POSException.ExportError('words'),
    BlobError('words'),
]
BUILTINS = [
    KeyError('key'), KeyError(OID), KeyError(), TypeError('words'), ValueError('words', 1, [2]),
    OSError(errno.ENOSPC, 'No space left'), FileNotFoundError(errno.ENOENT, 'No such file'),
    PermissionError('only words'), OSError('only words'), OSError(),
    BrokenPipeError(errno.EPIPE, 'Broken'),
    OSError(errno.ENOSPC, 'No space left', '/srv/Data.fs'),
    OSError(errno.ENOENT, 'No such file', b'/srv/Data.fs'),
]
OWN = [getattr(Exceptions, name)('words') for name in Exceptions.__all__ if name != 'ServerException']


def over_the_wire(error):
    name, state = faults.to_wire(error)
    message = loads(dumps((1, 2, '.reply', (name, state))))
    return faults.from_wire(*message[3])


def same(left, right):
    return (type(left) is type(right) and left.args == right.args and vars(left) == vars(right)
            and str(left) == str(right))


@pytest.mark.parametrize('error', [
    *STORAGE_ERRORS, *BUILTINS, *OWN, with_attribute(BlobError(), path='/a')], ids=repr)
def test_type_arguments_and_attributes_survive_the_trip(error):
    """S4."""
    arrived = over_the_wire(error)
    assert same(arrived, error)
    for attribute in ('errno', 'strerror', 'filename'):
        assert getattr(arrived, attribute, None) == getattr(error, attribute, None)


def test_every_class_that_zodb_defines_is_in_the_table():
    defined = {kind for kind in vars(POSException).values()
               if isinstance(kind, type) and issubclass(kind, POSException.POSError)}
    assert len(defined) > 20
    assert defined <= set(faults.NAMES)
    assert {getattr(Exceptions, name) for name in Exceptions.__all__} <= set(faults.NAMES)


def test_a_tail_of_notes_does_not_push_the_arguments_out():
    error = with_attribute(POSException.POSKeyError(OID), __notes__=['seen while packing'], extra=1)
    assert faults.to_wire(error) == ('ZODB.POSException.POSKeyError', (OID,))


# ---- what ZEO sends and takes ---------------------------------------------------------------------

def error_replies(frames):
    return [message[3] for message in map(loads, frames) if message[1] == 2]


def test_the_recorded_error_replies_of_zeo_are_understood_and_sent_alike():
    replies = error_replies(Z5)
    for reply in replies:
        assert faults.to_wire(faults.from_wire(*reply)) == reply
    key_error, conflict, other_key_error = replies
    assert same(faults.from_wire(*key_error), POSException.POSKeyError(bytes(8)))
    assert same(faults.from_wire(*other_key_error), POSException.POSKeyError(bytes(7) + b'\x99'))
    arrived = faults.from_wire(*conflict)
    assert type(arrived) is POSException.ConflictError
    assert arrived.get_oid() == bytes(8)
    assert arrived.get_class_name() == 'persistent.mapping.PersistentMapping'
    assert arrived.get_new_serial() > arrived.get_old_serial()


@pytest.mark.parametrize(('name', 'state', 'expected'), [
    # as ZEO 6.2 sends them
    ('ZODB.POSException.ReadOnlyError', (), POSException.ReadOnlyError()),
    ('ZODB.POSException.UndoError', {'_reason': 'why', '_oid': OID}, POSException.UndoError('why', OID)),
    ('ZODB.POSException.BTreesConflictError', {'p1': 1, 'p2': 2, 'p3': 3, 'reason': 4},
     POSException.BTreesConflictError(1, 2, 3, 4)),
    ('builtins.KeyError', ('k',), KeyError('k')),
    ('builtins.FileNotFoundError', (2, 'nope'), FileNotFoundError(2, 'nope')),
    ('ZODB.interfaces.BlobError', ('b',), BlobError('b')),
    ('ZEO.Exceptions.ClientDisconnected', ('gone',), ClientDisconnected('gone')),
    ('ZEO.Exceptions.ServerException', ('a.Class', 'b'), ServerException('a.Class', 'b')),
    # as servers on Python 2 do
    ('exceptions.KeyError', ('k',), KeyError('k')),
    ('exceptions.IOError', (2, 'nope'), FileNotFoundError(2, 'nope')),
    ('exceptions.OSError', (28, 'full'), OSError(28, 'full')),
    # as ours does
    ('zeo_clone.Exceptions.ClientDisconnected', ('gone',), ClientDisconnected('gone')),
])
def test_an_error_reply_becomes_the_exception_that_it_names(name, state, expected):
    assert same(faults.from_wire(name, state), expected)


def test_a_conflict_without_class_name_or_oid_can_be_asked_and_printed():
    arrived = over_the_wire(POSException.ConflictError())
    assert (arrived.get_oid(), arrived.get_class_name(), arrived.get_serials()) == (None, None, None)
    assert str(arrived) == 'database conflict error'


def test_our_own_exceptions_carry_the_names_that_zeo_knows():
    assert faults.to_wire(ClientDisconnected('x')) == ('ZEO.Exceptions.ClientDisconnected', ('x',))
    assert faults.to_wire(Exceptions.CommitOutcomeUnknown('x'))[0] == (
        'zeo_clone.Exceptions.CommitOutcomeUnknown')


# ---- outside the table ----------------------------------------------------------------------------

class ShopError(Exception):
    pass


class ShopConflict(POSException.ConflictError):
    pass


class ShopKeyError(POSException.POSKeyError):
    pass


class ShopDiskError(OSError):
    pass


def test_a_class_outside_the_table_becomes_a_server_exception_with_its_name():
    arrived = over_the_wire(ShopError('words', 1))
    assert type(arrived) is ServerException
    assert arrived.class_name == f'{__name__}.ShopError'
    assert arrived.state == ('words', 1)
    assert over_the_wire(with_attribute(ShopError(), code=7)).state == {'code': 7}


def test_a_server_exception_is_passed_on_unchanged_by_a_server_that_is_a_client():
    arrived = over_the_wire(ShopError('words'))
    assert same(over_the_wire(arrived), arrived)
    assert over_the_wire(ServerException()).class_name == ''
    assert over_the_wire(ServerException('a.Class', 'odd')).state == ('odd',)


@pytest.mark.parametrize(('error', 'base'), [
    (ShopConflict(oid=OID, serials=SERIALS), POSException.ConflictError),
    (ShopKeyError(OID), POSException.POSKeyError),
    (ShopDiskError(errno.ENOSPC, 'full'), OSError)])
def test_a_subclass_arrives_as_the_class_by_which_callers_decide(error, base):
    arrived = over_the_wire(error)
    assert type(arrived) is base
    assert arrived.args == error.args
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize(('kind', 'base'), [
    ('FileStorageQuotaError', POSException.StorageSystemError),
    ('CorruptedFileStorageError', POSException.StorageSystemError),
    ('FileStorageFormatError', POSException.StorageError),
    ('PackError', POSException.StorageError)])
def test_an_error_of_file_storage_arrives_as_its_base_and_tells_its_name(kind, base):
    arrived = over_the_wire(getattr(FILE_STORAGE, kind)('the file', 5))
    assert type(arrived) is base
    assert str(arrived) == f'ZODB.FileStorage.FileStorage.{kind}: the file, 5'


def test_a_name_imports_nothing_and_calls_nothing():
    """S1."""
    before = dict(sys.modules)
    for name in ('antigravity.fly', 'this.s', 'os.system', 'builtins.SystemExit', 'builtins.eval',
    'ZODB.DB',
                 'ZODB.POSException._recon', 'ZODB.POSException.ConflictError.__init__', '', '.',
                 'KeyError'):
        assert faults.from_wire(name, ('echo',)).class_name == name
    assert dict(sys.modules) == before


# ---- what cannot be sent, and what is too long -------------------------------------------------------

class Mute:
    def __str__(self):
        raise ZeroDivisionError

    __repr__ = __str__


@pytest.mark.parametrize(('argument', 'sent'), [
    (ValueError('inner'), 'inner'), (Mute(), '<Mute without text>'), ({1: 2}, {1: 2}),
    ({(1, 2): 3}, {'<a tuple of 2>': 3}),
    (2 ** 300, '<an integer of 301 bits>'), ('half \ud800', r'half \ud800'),
    (bytearray(b'a'), "bytearray(b'a')"),
    ('x' * 5000, 'x' * 4093 + '...'), (b'x' * 5000, b'x' * 4096), ([1] * 5000, [1] * 4094),
    ({1, 2}, [1, 2]),     ((1, [2, {'k': None}]), (1, [2, {'k': None}])),
    ({'k' * 5000: 1}, {'k' * 4093 + '...': 1})])
def test_what_cannot_be_encoded_is_told_as_text_and_long_things_are_cut(argument, sent):
    """S3, L8: the one error reply that a call gets can always be sent, and is short."""
    for error in (KeyError(argument), ShopError(argument), POSException.POSKeyError(argument)):
        assert faults.to_wire(error)[1] == (sent,)
        assert len(dumps(faults.to_wire(error))) < 60_000


def test_an_error_that_contains_itself_can_be_sent():
    endless = []
    endless += [endless, endless]
    for error in (KeyError(endless), with_attribute(ShopError(), endless={'k': endless})):
        assert len(dumps(faults.to_wire(error))) < 60_000
        assert len(dumps(faults.z4_error(error), exceptions=True)) < 60_000


def test_what_a_server_sends_is_cut_as_well():
    """L8: log lines of the client."""
    arrived = faults.from_wire('x' * 5000, ('y' * 50_000, b'z' * 50_000))
    assert len(str(arrived)) < 25_000
    assert len(arrived.class_name) == 200


@pytest.mark.parametrize(('name', 'state'), [
    (b'builtins.KeyError', ()), (None, ()), (5, ()), (('builtins.KeyError',), ()), ('two\nlines', ()),
    ('builtins.KeyError', None), ('builtins.KeyError', 'text'), ('builtins.KeyError', b'x'), ('a.B', 5),
    ('a.B', {1}), ('a.B', {1: 2}),
    ('builtins.OSError', ('2', 'text')), ('builtins.OSError', (2, None)),
    ('builtins.OSError', {'errno': 2}),
    ('builtins.OSError', ([], 'text')),
    ('ZODB.POSException.ConflictError', {}), ('ZODB.POSException.ConflictError', {'oid': OID}),
    ('ZODB.POSException.ConflictError', {'message': 'm', 'oid': 5, 'class_name': None, 'serials': None}),
    ('ZODB.POSException.ConflictError',
    {'message': 'm', 'oid': [], 'class_name': None, 'serials': None}),
    ('ZODB.POSException.ConflictError',
    {'message': 'm', 'oid': b'short', 'class_name': None, 'serials': None}),
    ('ZODB.POSException.ConflictError',
    {'message': 'm', 'oid': OID, 'class_name': None, 'serials': (OID,)}),
    ('ZODB.POSException.ConflictError',
    {'message': 'm', 'oid': OID, 'class_name': None, 'serials': (1, 2)}),
    ('ZODB.POSException.ConflictError',
    {'message': 5, 'oid': None, 'class_name': None, 'serials': None}),
    ('ZODB.POSException.UndoError', ('why',)), ('ZODB.POSException.BTreesConflictError', {'p1': 1}),
])
def test_an_error_reply_of_a_wrong_shape_is_refused(name, state):
    """S5a: also states with which the exception could not be printed."""
    with pytest.raises(ProtocolError, match='^error reply refused: '):
        faults.from_wire(name, state)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from([*faults.CLASSES, *faults.NEAREST, 'a.B']), values)
def test_any_state_is_an_exception_that_can_be_printed_or_refused(name, state):
    """S5."""
    try:
        error = faults.from_wire(name, state)
    except ProtocolError as refusal:
        assert len(str(refusal)) <= 200
    else:
        assert isinstance(error, Exception)
        assert isinstance(str(error), str)
        assert dumps(faults.to_wire(error))


# ---- Z4: the class and the instance, pickled ---------------------------------------------------------

def test_the_recorded_error_replies_of_zeo_4_are_sent_byte_for_byte():
    recorded = [frame for frame in Z4 if b'_recon\n' in frame]
    ours = [dumps((number, 0, '.reply', faults.z4_error(POSException.POSKeyError(oid))), exceptions=True)
            for number, oid in ((4, bytes(8)), (22, bytes(7) + b'\x99'))]
    assert ours == recorded


@pytest.mark.parametrize('error', STORAGE_ERRORS + BUILTINS, ids=repr)
def test_an_old_client_unpickles_class_and_instance(error):
    """S4.  What an old client does to the reply is what pickle does."""
    kind, instance = pickle.loads(dumps(faults.z4_error(error), exceptions=True))
    assert kind is type(error)
    assert same(instance, error)


@pytest.mark.parametrize('error', [
    ShopError('words', 1), Mute, with_attribute(ShopError(), code=7),
    Exceptions.CommitOutcomeUnknown('words'),
    ServerException('a.Class', ()), FILE_STORAGE.FileStorageQuotaError('full')])
def test_an_old_client_gets_a_storage_error_for_what_it_may_not_have(error):
    error = ShopError(Mute()) if error is Mute else error
    kind, instance = pickle.loads(dumps(faults.z4_error(error), exceptions=True))
    assert kind is type(instance) is POSException.StorageError
    assert str(instance).startswith(f'{type(error).__module__}.{type(error).__name__}: ')


def test_our_disconnect_is_zeos_for_an_old_client():
    content = dumps(faults.z4_error(ClientDisconnected('gone')), exceptions=True)
    assert content.count(b'cZEO.Exceptions\nClientDisconnected\n') == 2


def test_an_instance_alone_may_stand_in_a_list_of_serials():
    failed = faults.z4_error(POSException.ConflictError(oid=OID, serials=SERIALS))[1]
    content = dumps((0, True, 'serialnos', ([(OID, b'rs'), (b'another.', failed)],)), exceptions=True)
    [[_, [_, instance]]] = pickle.loads(content)[3]
    assert same(instance, POSException.ConflictError(oid=OID, serials=SERIALS))


@pytest.mark.parametrize('error', STORAGE_ERRORS + BUILTINS + OWN, ids=repr)
def test_no_class_is_sent_where_none_is_expected_and_none_is_received(error):
    """S1: both ways."""
    value = faults.z4_error(copy.copy(error))
    for piece in (value, *value):
        with pytest.raises(TypeError, match='^cannot encode an object of class zeo_clone'):
            dumps(piece)
    with pytest.raises(ProtocolError, match='message refused'):
        loads(dumps(value, exceptions=True))


def test_several_undo_errors_as_a_real_server_sends_them():
    """S4: ZEO 6.2 puts UndoError objects into the state of a MultipleUndoErrors; they arrive as texts."""
    oid = b'\0' * 7 + b'\5'
    sent = POSException.MultipleUndoErrors([(oid, POSException.UndoError('changed later', oid))])
    message = pickle.dumps((7, 2, '.reply', ('ZODB.POSException.MultipleUndoErrors', vars(sent))), 3)
    name, state = loads(message)[3]
    error = faults.from_wire(name, state)
    assert type(error) is POSException.MultipleUndoErrors
    assert error._errs[0][0] == oid
    assert 'changed later' in str(error)


@pytest.mark.parametrize('state', [
    POSException.ConflictError('x'), POSException.POSKeyError(b'x'), POSException.UndoError([1]),
    POSException.UndoError('x', {}), KeyError('x')])
def test_no_other_exception_object_is_decoded(state):
    """S1: of all exceptions only UndoError may be inside a message, with plain attributes."""
    with pytest.raises(ProtocolError):
        loads(pickle.dumps(state, 3))
