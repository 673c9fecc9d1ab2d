"""The guard of conflict resolution on the server (S5c).

In: a record that a storage is about to unpickle in order to resolve a conflict.  Out: nothing, or
`ConflictError` if the record names anything but classes, or could call something that it does not name
plainly.  So the worst that a prepared record can bring about is a conflict.  Any thread.
"""
from __future__ import annotations

import pickletools

from ZODB.ConflictResolution import BadClass, find_global
from ZODB.POSException import ConflictError

#: Opcodes that carry the name of what they load as their own argument.
NAMING = frozenset({'GLOBAL', 'INST'})
#: Opcodes that load something by names or numbers that come from elsewhere.  ZODB does not write them.
OBSCURE = frozenset({'STACK_GLOBAL', 'EXT1', 'EXT2', 'EXT4'})
#: A record is two pickles: the class, and the state.
PICKLES = 2


class Unresolvable:
    """A class without conflict resolution."""


#: The record of an `Unresolvable`, without a state.
UNRESOLVABLE = f'c{__name__}\nUnresolvable\n.'.encode()


def is_safe(record: bytes) -> bool:
    """Whether `check_record` finds nothing."""
    try:
        check_record(record)
    except ConflictError:
        return False
    return True


def check_record(record: bytes) -> None:
    """Raises `ConflictError` if unpickling `record` could call anything but classes."""
    rest = memoryview(record)
    for _ in range(PICKLES):
        rest = rest[_check_pickle(bytes(rest)):]
        if not rest:
            return


def _check_pickle(pickle: bytes) -> int:
    """The length of the pickle at the beginning of `pickle`."""
    position = 0
    try:
        for opcode, argument, at in pickletools.genops(pickle):
            position = at or 0
            if opcode.name in NAMING:
                _check_name(*str(argument).split(' ', 1))
            elif opcode.name in OBSCURE:
                raise ConflictError(f'a record with a {opcode.name} is not resolved')
    except (ValueError, IndexError, TypeError, UnicodeError) as error:
        raise ConflictError(f'a record that cannot be read is not resolved: {error}') from error
    return position + 1


def _check_name(module: str, name: str) -> None:
    found = find_global(module, name)
    if not isinstance(found, (type, BadClass)):
        raise ConflictError(f'a record with {module[:100]}.{name[:100]}, no class, is not resolved')
