"""The exact list of names that a message may contain, and what each of them stands for here.

In: a (module, name) pair, or the arguments that a message wants to apply one to.  Out: a plain value, or
`ProtocolError`.  Pure functions, any thread.  This module imports nothing because a message names it
(S1): a listed name selects one of the functions below, an unlisted one is refused.  It knows neither
opcodes nor bytes on the wire.

======================================  ===============================================================
name                                    stands for
======================================  ===============================================================
builtins set, frozenset                 a set of a list of keys
zodbpickle binary                       bytes; current releases of zodbpickle make no difference either
_codecs encode                          bytes, from ``(text, 'latin1')``: protocols 0 to 2 of Python 3
builtins bytes                          empty bytes, from ``()``: the same picklers
ZopeUndo.Prefix Prefix                  our `Prefix`
copyreg _reconstructor, builtins object the long form of the two classes above
datetime, decimal, uuid, complex, int   the values of `rich`
======================================  ===============================================================

``__builtin__`` and ``copy_reg``, the Python 2 names of the modules, are listed as well.
"""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any

from ZODB.POSException import UndoError

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import rich

MAX_NAME = 120              # characters of a module's or class's name
MAX_DEPTH = 32              # containers in containers; a real message has five
MAX_CONTAINERS = 100_000    # in one message; an undo log of as many transactions
MAX_WAITING = 2048          # values before a list or dict in a tuple or batch; a batch has up to 2000
MAX_INT_BYTES = 32          # real integers are ids of 8 bytes; keeps arithmetic and formatting cheap
MAX_KEY_ITEMS = 8           # items of a tuple used as a key
MAX_TUPLE_KEYS = 128        # tuples used as keys in one container: their hashes can be made to collide
MAX_PATH = 256              # segments of a Prefix
_MAX_KEY_INT = 1 << 63      # few integers below this share a hash, however they are chosen

_Types = Callable[[Iterable[type]], bool]
_SEEDED: _Types = frozenset({str, bytes}).issuperset        # their hashes nobody outside can foresee
_FLAT: _Types = frozenset({str, bytes, int, float, bool, type(None)}).issuperset


def bad(text: str) -> ProtocolError:
    """The error for a message that is refused; `text` never contains a value of the message."""
    return ProtocolError(f'message refused: {text}')


def key_fault(keys: Collection[Any], present: int) -> str | None:
    """Why `keys` may not go into a dict or set that has `present` of them; None if they may.

    Looks at types before anything is hashed (S5a), and bounds the keys that can be chosen to collide.
    """
    if _SEEDED(map(type, keys)):
        return None
    for key in keys:
        kind = type(key)
        if kind is tuple:
            if len(keys) + present > MAX_TUPLE_KEYS:
                return 'too many tuples as keys'
            items: tuple[object, ...] = key
            if len(items) > MAX_KEY_ITEMS or not _FLAT(map(type, items)):
                return 'a nested or long tuple as a key'
        else:
            items = (key,)
            if not _FLAT((kind,)):
                return 'a key of a type that may not be one'
        for item in items:
            if type(item) is int and not -_MAX_KEY_INT < item < _MAX_KEY_INT:
                return 'a huge integer as a key'
    return None


class Prefix:
    """A filter of undo logs: equal to each path that lies in the folder `path`.

    Applications send ``ZopeUndo.Prefix.Prefix`` objects in ``undoInfo`` filters.  They become this class
    on our side, whether that package is installed or not.  A user name in an undo log is written
    ``/folder/path name``; only its path counts.  str and bytes are compared alike.  Not hashable.
    """

    __slots__ = ('path',)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, path: str = '') -> None:
        self.path = path

    def __eq__(self, other: object) -> bool:
        if type(other) is bytes:
            other = other.decode('latin-1')
        if type(other) is str:
            path = other.split(' ', 1)[0]
            return path == self.path or path.startswith(self.path + '/')
        return isinstance(other, Prefix) and other.path == self.path

    def __repr__(self) -> str:
        return f'Prefix({self.path!r})'

    def set_state(self, state: object) -> None:
        """Take the attributes that a pickler wrote: ``path``, a list of segments, or ``value``."""
        if type(state) is not dict:
            raise bad('a Prefix without attributes')
        path = state.get('path', state.get('value'))
        segments: list[Any] = path if type(path) is list else [path]
        if len(segments) > MAX_PATH or not {str, bytes}.issuperset(map(type, segments)):
            raise bad('a Prefix with a path that is none')
        self.path = '/'.join(s if type(s) is str else s.decode('latin-1') for s in segments)


class Foreign:
    """Stands for an object of a class that is not on the list, where such a one is not refused."""

    __slots__ = ('title',)

    def __init__(self, title: str) -> None:
        self.title = title


class Name:
    """A listed name, on the decoder's stack only; never part of a value that is handed out."""

    __slots__ = ('title', 'apply')

    def __init__(self, title: str, apply: Callable[[tuple[Any, ...]], object]) -> None:
        self.title = title
        self.apply = apply


def _keys_of(args: tuple[Any, ...]) -> list[Any]:
    if len(args) != 1 or type(args[0]) is not list:
        raise bad('a set of something that is not a list')
    fault = key_fault(args[0], 0)
    if fault:
        raise bad(fault)
    return args[0]


def _make_set(args: tuple[Any, ...]) -> set[Any]:
    return set(_keys_of(args))


def _make_frozenset(args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(_keys_of(args))


def _make_dict(args: tuple[Any, ...]) -> dict[Any, Any]:
    """A dict from a tuple of pairs, as its class may have written it."""
    if len(args) != 1 or type(args[0]) is not tuple or any(
            type(pair) is not tuple or len(pair) != 2 for pair in args[0]):
        raise bad('a dict of something that is not a tuple of pairs')
    fault = key_fault([key for key, _ in args[0]], 0)
    if fault:
        raise bad(fault)
    return dict(args[0])


def _make_binary(args: tuple[Any, ...]) -> bytes:
    if args == ():
        return b''
    if len(args) != 1 or type(args[0]) is not bytes:
        raise bad('zodbpickle.binary of something that is not bytes')
    return args[0]


def _make_empty(args: tuple[Any, ...]) -> bytes:
    if args != ():
        raise bad('bytes with arguments')
    return b''


def _make_encoded(args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or type(args[0]) is not str or type(args[1]) is not str:
        raise bad('encode of something that is not text')
    if args[1] not in ('latin1', 'latin-1'):
        raise bad('encode with another encoding than latin-1')
    return args[0].encode('latin-1')


def _make_prefix(args: tuple[Any, ...]) -> Prefix:
    if args != ():
        raise bad('a Prefix with arguments')
    return Prefix()


def _make_uuid(args: tuple[Any, ...]) -> object:
    if args != ():
        raise bad('a UUID with arguments')
    return rich.blank_uuid()


def _make_rich(make: Callable[[tuple[Any, ...]], object], args: tuple[Any, ...]) -> object:
    try:
        return make(args)
    except rich.ERRORS:
        raise bad('a date, number or the like that is none') from None


def _no_call(args: tuple[Any, ...]) -> object:
    raise bad('a call of a class that may not be called')


def _reconstruct(args: tuple[Any, ...]) -> object:
    if len(args) == 3:
        if args[0] is _PREFIX and args[1] is _OBJECT and args[2] is None:
            return Prefix()
        if args[0] is _BINARY and args[1] is _BYTES:
            return _make_binary(args[2:])
    raise bad('an object of a class that is not on the list')


def _make_undo_error(args: tuple[Any, ...]) -> UndoError:
    """Servers put these, written as ``_recon(UndoError, attributes)``, into a MultipleUndoErrors."""
    if len(args) != 2 or args[0] is not _UNDO_ERROR or type(args[1]) is not dict:
        raise bad('an exception in an exception that is no UndoError')
    reason, oid = args[1].get('_reason'), args[1].get('_oid')
    if not {str, bytes, type(None)}.issuperset((type(reason), type(oid))):
        raise bad('an UndoError with attributes that it cannot have')
    return UndoError(reason, oid)


_UNDO_ERROR = Name('UndoError', _no_call)
_PREFIX = Name('Prefix', _make_prefix)
_UUID = Name('UUID', _make_uuid)
_BINARY = Name('binary', _make_binary)
_OBJECT = Name('object', _no_call)
_BYTES = Name('bytes', _make_empty)
_SET = Name('set', _make_set)
_DICT = Name('dict', _make_dict)
_FROZENSET = Name('frozenset', _make_frozenset)

#: The list.  Exact pairs; never a whole module.
ALLOWED: dict[tuple[str, str], Name] = {
    ('ZopeUndo.Prefix', 'Prefix'): _PREFIX,
    ('zodbpickle', 'binary'): _BINARY,
    ('_codecs', 'encode'): Name('encode', _make_encoded),
    ('ZODB.POSException', '_recon'): Name('_recon', _make_undo_error),
    ('ZODB.POSException', 'UndoError'): _UNDO_ERROR,
}
#: Of these nothing but plain values can be made.  They may also stand in the extension of a transaction.
HARMLESS: dict[tuple[str, str], Name] = {
    ('uuid', 'UUID'): _UUID,
    **{pair: Name(pair[1], partial(_make_rich, make)) for pair, make in rich.MAKERS.items()},
    **{pair: name for pair, name in ALLOWED.items() if name is _BINARY or pair[0] == '_codecs'},
}
for _module in ('builtins', '__builtin__'):
    HARMLESS[_module, 'bytes'] = _BYTES
    HARMLESS[_module, 'set'] = _SET
    HARMLESS[_module, 'frozenset'] = _FROZENSET
    HARMLESS[_module, 'dict'] = _DICT
    for _number in ('complex', 'int'):
        HARMLESS[_module, _number] = HARMLESS['builtins', _number]
ALLOWED.update(HARMLESS)
for _module in ('builtins', '__builtin__'):
    ALLOWED[_module, 'object'] = _OBJECT
for _module in ('copyreg', 'copy_reg'):
    ALLOWED[_module, '_reconstructor'] = Name('_reconstructor', _reconstruct)
#: Classes that the NEWOBJ opcode may make.
NEW: frozenset[Name] = frozenset({_PREFIX, _BINARY, _UUID})


#: Finds the `Name` of a module and a name.
Find = Callable[[object, object], Name]


def find(module: object, name: object) -> Name:
    """The `Name` of a listed pair.  Raises ProtocolError for every other."""
    return _look_up(ALLOWED, module, name)


def find_harmless(module: object, name: object) -> Name:
    """The `Name` of a pair that may also stand in an extension.  Raises ProtocolError for every other."""
    return _look_up(HARMLESS, module, name)


def find_any(module: object, name: object) -> Name:
    """The same; what an unlisted pair makes is a `Foreign`."""
    if type(module) is str and type(name) is str and (module, name) not in HARMLESS:
        title = f'{module}.{name}'[:MAX_NAME]
        return Name(_FOREIGN, lambda args: Foreign(title))
    return find_harmless(module, name)


def _look_up(listed: dict[tuple[str, str], Name], module: object, name: object) -> Name:
    if type(module) is not str or type(name) is not str:
        raise bad('a class name that is not text')
    try:
        return listed[module, name]
    except KeyError:
        shown = ascii(f'{module[:MAX_NAME // 2]}.{name[:MAX_NAME // 2]}')[:MAX_NAME]
        raise bad(f'{shown} is not on the list of what a message may name') from None


_FOREIGN = 'foreign'


def may_be_made(name: Name) -> bool:
    """Whether the NEWOBJ opcode may make an object of it."""
    return name in NEW or name.title is _FOREIGN
