"""Exceptions <-> what an error reply carries, through one fixed table.

In: an exception, or the class name and state in a peer's error reply.  Out: the other.  No I/O, no
state, any thread.  A name that a peer sends selects a class of the table or becomes text in a
`ServerException`; nothing is imported because of it (S1).  Type, arguments and attributes of every class
in the table survive the trip (S4); texts are cut to `MAX_TEXT`, so that neither replies nor log lines
grow with what somebody sent (L8).

This module does not know calls, sessions, or which thread waits for the exception.
"""
from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator
from typing import Any

from ZODB import POSException
from ZODB.interfaces import BlobError

from zeo_clone import Exceptions
from zeo_clone.Exceptions import ProtocolError, ServerException
from zeo_clone.zrpc.allowed import MAX_INT_BYTES
from zeo_clone.zrpc.marshal import Call, Global

MAX_TEXT = 4096         # characters of one text, bytes of one string
MAX_STATE = 32_768      # of all together, with 8 for each value
MAX_LEVELS = 6          # of tuples in dicts in ...
MAX_CLASS_NAME = 200

_CONTAINERS = frozenset({tuple, list, dict, set, frozenset})

_STORAGE_ERRORS = (
    'BTreesConflictError', 'ConflictError', 'ConnectionStateError', 'DanglingReferenceError',
    'ExportError', 'InvalidObjectReference', 'MountedStorageError', 'MultipleUndoErrors', 'POSError',
    'POSKeyError', 'ReadConflictError', 'ReadOnlyError', 'ReadOnlyHistoryError', 'StateLoadError',
    'StorageError', 'StorageSystemError', 'StorageTransactionError', 'TransactionTooLargeError',
    'UndoError', 'Unsupported', 'VersionCommitError', 'VersionError', 'VersionLockError',
)
_BUILTINS = (
    'KeyError', 'TypeError', 'ValueError', 'OSError', 'BlockingIOError', 'BrokenPipeError',
    'ChildProcessError', 'ConnectionAbortedError', 'ConnectionError', 'ConnectionRefusedError',
    'ConnectionResetError', 'FileExistsError', 'FileNotFoundError', 'InterruptedError',
    'IsADirectoryError', 'NotADirectoryError', 'PermissionError', 'ProcessLookupError', 'TimeoutError',
)
_OWN = ('ClientDisconnected', 'ClientStorageError', 'ProtocolError', 'ServerException',
        'UnrecognizedResult')
_OWN_SINCE_Z5 = 'ZEO.Exceptions.ServerException'

#: Class -> the name that it has on the wire; ZEO's name for what both packages define.
NAMES: dict[type[BaseException], str] = {
    **{getattr(POSException, name): f'ZODB.POSException.{name}' for name in _STORAGE_ERRORS},
    **{getattr(builtins, name): f'builtins.{name}' for name in _BUILTINS},
    **{getattr(Exceptions, name): f'ZEO.Exceptions.{name}' for name in _OWN},
    Exceptions.CommitOutcomeUnknown: 'zeo_clone.Exceptions.CommitOutcomeUnknown',
    Exceptions.MessageTooLarge: 'zeo_clone.Exceptions.MessageTooLarge',
    BlobError: 'ZODB.interfaces.BlobError',
}
#: Name on the wire -> class; also the names that Python 2 and our own modules have for them.
CLASSES: dict[str, type[BaseException]] = {
    **{name: kind for kind, name in NAMES.items()},
    **{f'exceptions.{name}': getattr(builtins, name) for name in _BUILTINS},
    **{f'zeo_clone.Exceptions.{name}': getattr(Exceptions, name) for name in _OWN},
    'builtins.IOError': OSError, 'exceptions.IOError': OSError, 'exceptions.EnvironmentError': OSError,
}
#: Classes outside the table that arrive as the nearest one in it, with their own name in the text.
NEAREST: dict[str, type[BaseException]] = {
    **{f'ZODB.FileStorage.FileStorage.{name}': POSException.StorageError
       for name in ('FileStorageError', 'PackError', 'FileStorageFormatError', 'RedundantPackWarning')},
    **{f'ZODB.FileStorage.FileStorage.{name}': POSException.StorageSystemError
       for name in ('CorruptedFileStorageError', 'CorruptedTransactionError', 'FileStorageQuotaError')},
    'ZODB.FileStorage.format.CorruptedError': POSException.StorageSystemError,
    'ZODB.FileStorage.format.CorruptedDataError': POSException.StorageSystemError,
    'ZODB.FileStorage.fspack.PackError': POSException.StorageError,
    'ZODB.blob.BlobStorageError': BlobError,
}
#: Where callers decide by the class: an unknown subclass is sent as this base, so that it is caught.
_DECISIVE = frozenset({
    POSException.ConflictError, POSException.ReadConflictError, POSException.POSKeyError,
    POSException.ReadOnlyError, POSException.UndoError, POSException.StorageTransactionError,
    POSException.Unsupported, Exceptions.ClientDisconnected, OSError,
})
#: Classes whose constructors keep their arguments as attributes: these are sent, the arguments only if
#: they are not the values of the attributes named here.
_ARGS_IN_ATTRIBUTES: dict[type[BaseException], tuple[str, ...]] = {
    POSException.ConflictError: (),
    POSException.ReadConflictError: (),
    POSException.BTreesConflictError: ('p1', 'p2', 'p3', 'reason'),
    POSException.DanglingReferenceError: ('referer', 'missing'),
    POSException.UndoError: ('_reason', '_oid'),
    POSException.MultipleUndoErrors: ('_errs',),
}


# ---- to the wire --------------------------------------------------------------------------------

def to_wire(error: BaseException) -> tuple[str, Any]:
    """``(dotted class name, state)`` of a Z5 error reply; can always be encoded.

    The state is the dict of the exception's attributes or the tuple of its arguments.
    """
    if type(error) is ServerException:      # passed on as it came, by a server that is a client itself
        state = _plain(error.state)
        return (_cut(_plain(str(error.class_name)), MAX_CLASS_NAME),
                state if type(state) in (tuple, list, dict) else (state,))
    kind = _kind_on_wire(type(error))
    return NAMES.get(kind) or _title(kind), _state(kind, error)


def z4_error(error: BaseException) -> tuple[Global, Call]:
    """The value of a Z4 error reply, class and instance, for ``marshal.dumps(..., exceptions=True)``.

    Old clients import what they are told to, so only classes that they have are named; others are sent
    as a ``StorageError`` that tells the name.  The instance alone may stand in a ``serialnos`` list.
    """
    kind = _kind_on_wire(type(error))
    name, state = NAMES.get(kind, ''), _state(kind, error)
    if name in ('', _OWN_SINCE_Z5) or name.startswith('zeo_clone.'):
        kind, name = POSException.StorageError, 'ZODB.POSException.StorageError'
        state = _plain((f'{_title(type(error))}: {_text_of(error)}',))
    global_ = Global(*name.rsplit('.', 1))
    if not issubclass(kind, POSException.POSError):
        return global_, Call(global_, state if type(state) is tuple else _plain(error.args))
    args = _plain(error.args) if type(state) is dict else state
    attributes = {**(state if type(state) is dict else {}), 'args': args}
    return global_, Call(Global('ZODB.POSException', '_recon'), (global_, attributes))


def _kind_on_wire(kind: type[BaseException]) -> type[BaseException]:
    if kind in NAMES:
        return kind
    return next((base for base in kind.__mro__ if base in _DECISIVE), kind)


def _title(kind: type[BaseException]) -> str:
    return _cut(f'{kind.__module__}.{kind.__name__}', MAX_CLASS_NAME)


def _state(kind: type[BaseException], error: BaseException) -> Any:
    if isinstance(error, OSError):
        known = isinstance(error.filename, (str, bytes)) and len(error.args) == 2
        return _plain((*error.args, error.filename) if known else error.args)
    attributes = _attributes(vars(error))
    if attributes and (not error.args or kind not in NAMES or kind in _ARGS_IN_ATTRIBUTES):
        state = _plain(attributes)
        args = _plain(error.args)
        return {**state, 'args': args} if args != _args_of(kind, state) and kind in NAMES else state
    return _plain(error.args)


def _args_of(kind: type[BaseException], state: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments with which an exception with these attributes was probably made."""
    names = _ARGS_IN_ATTRIBUTES.get(kind, ())
    args = [state[name] for name in names] if all(name in state for name in names) else []
    while args and args[-1] is None:
        args.pop()
    return tuple(args)


def _attributes(state: dict[str, Any]) -> dict[str, Any]:
    """Without Python's own, such as the ``__notes__`` of a traceback."""
    return {name: value for name, value in state.items() if not name.startswith('__')}


def _plain(value: Any) -> Any:
    """`value` as something that can be encoded and is short; what cannot be is told as text."""
    return _Cutter().plain(value)


class _Cutter:
    """Copies one value while there is room; what comes later than that is left out."""

    def __init__(self) -> None:
        self.room = MAX_STATE

    def plain(self, value: Any, level: int = 0) -> Any:
        kind = type(value)
        self.room -= 8
        if value is None or kind is bool or kind is float:
            return value
        if kind is int:
            fits = value.bit_length() < 8 * MAX_INT_BYTES
            return value if fits else f'<an integer of {value.bit_length()} bits>'
        if kind is str:
            return self._text(value)
        if isinstance(value, bytes):
            self.room -= min(len(value), MAX_TEXT)
            return bytes(value[:MAX_TEXT])
        if kind not in _CONTAINERS:
            return self._text(_text_of(value))
        if level == MAX_LEVELS:
            return f'<a {kind.__name__} of {len(value)}>'
        if kind is dict:
            return {self.plain(key, MAX_LEVELS): self.plain(item, level + 1)
                    for key, item in self._some(value.items())}
        items = [self.plain(item, level + 1) for item in self._some(value)]
        return tuple(items) if kind is tuple else items

    def _some(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            if self.room <= 0:
                return
            yield item

    def _text(self, text: str) -> str:
        text = _cut(text.encode('utf-8', 'backslashreplace').decode(), MAX_TEXT)
        self.room -= len(text)
        return text


def _text_of(value: object) -> str:
    """The text of any object of our own side; its class's code runs, so that anything can happen."""
    try:
        return str(value)
    except Exception:
        return f'<{type(value).__name__} without text>'


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit - 3] + '...'


# ---- from the wire ------------------------------------------------------------------------------

def from_wire(name: Any, state: Any) -> Exception:
    """The exception that an error reply describes; to be raised by the caller.

    A name outside the table becomes ``ServerException(name, state)``.  Raises `ProtocolError` if name or
    state are not what an error reply has, or do not fit each other.
    """
    if type(name) is not str or not name.isprintable() or type(state) not in (tuple, list, dict):
        raise ProtocolError('error reply refused: it is not a class name with arguments or attributes')
    if type(state) is dict and not all(type(attribute) is str for attribute in state):
        raise ProtocolError('error reply refused: an attribute without a name')
    kind = CLASSES.get(name)
    state = _plain(state)
    if kind is None and name in NEAREST:
        kind = NEAREST[name]
        values = state.values() if type(state) is dict else state
        state = (f'{name}: ' + ', '.join(str(value) for value in values),)
    if kind is None or kind is ServerException and not _is_named_state(state):
        return ServerException(_cut(name, MAX_CLASS_NAME), state)
    error: Exception = _make(kind, state)
    try:
        str(error)
    except Exception:
        raise ProtocolError(f'error reply refused: a {kind.__name__} cannot have this state') from None
    return error


def _is_named_state(state: Any) -> bool:
    return type(state) is tuple and len(state) == 2 and type(state[0]) is str


def _make(kind: type[BaseException], state: Any) -> Any:
    """An instance without its class's constructor, which a peer could give any arguments."""
    if kind is ServerException:
        return ServerException(*state)
    if issubclass(kind, OSError):
        return _make_os_error(kind, state)
    error: Any = kind.__new__(kind)
    if type(state) is not dict:
        error.args = tuple(state)
        return error
    args = state.pop('args', None)
    vars(error).update(_attributes(state))
    _check_conflict(kind, state)
    error.args = args if type(args) is tuple else _args_of(kind, state)
    if kind is POSException.POSKeyError and not error.args:
        error.args = (None,)        # its text needs one; ZEO sends none beside attributes
    return error


def _make_os_error(kind: type[OSError], state: Any) -> OSError:
    """With an errno Python itself chooses the subclass that fits it."""
    if type(state) is dict:
        raise ProtocolError('error reply refused: an OSError has arguments, not attributes')
    args = tuple(state)
    if len(args) < 2:
        return kind(*args)
    if type(args[0]) is not int or type(args[1]) is not str:
        raise ProtocolError('error reply refused: an OSError without an errno and a text')
    named = len(args) > 2 and type(args[2]) in (str, bytes)
    return OSError(*args[:3]) if named else OSError(*args[:2])


def _check_conflict(kind: type[BaseException], state: dict[str, Any]) -> None:
    """Callers go on with oid and serials of a conflict, so these have to be some."""
    if issubclass(kind, POSException.ConflictError):
        serials = state.get('serials') or ()
        for value in (state.get('oid'), *(serials if type(serials) is tuple else (serials,))):
            if value is not None and not (type(value) in (bytes, str) and len(value) == 8):
                raise ProtocolError(f'error reply refused: a {kind.__name__} with a bad oid or serial')
