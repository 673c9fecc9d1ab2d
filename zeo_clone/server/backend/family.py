"""What the records of one conflict have in common: names, and references to other objects (S9).

In: what a record names or refers to.  Out: the one object that stands for it in all three records, or
`Refused`.  Loop thread; no bytes in here, and nothing is imported or loaded.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ZODB.ConflictResolution import PersistentReference

from zeo_clone.server.backend.constructors import Maker

MAX_NAME = 200  # characters of a module's, class's or database's name

Find = Callable[[str, str], 'Maker | None']


class Refused(Exception):
    """The record is not read.  `name`: what it names and must not, as (module, name); else None."""

    def __init__(self, why: str, name: tuple[str, str] | None = None) -> None:
        super().__init__(why)
        self.name = name


class Name:
    """What a record calls by name.  `pair` is the (module, name), made of texts."""

    __slots__ = ('pair',)

    def __init__(self, pair: tuple[str, str]) -> None:
        self.pair = pair


class Family:
    """What the records of one conflict have in common: equal references are one object (ZODB: else it does
    not know them to be equal when they are weak).
    """

    def __init__(self, find: Find) -> None:
        self.find = find
        self.names: dict[tuple[str, str], Name] = {}
        self._references: dict[tuple[Any, ...], Any] = {}

    def name(self, module: str, name: str) -> Name:
        """The one `Name` of that name."""
        pair = module, name
        if pair not in self.names:
            if not 0 < len(module) <= MAX_NAME or not 0 < len(name) <= MAX_NAME:
                raise Refused('a name in it is too long')
            self.names[pair] = Name(pair)
        return self.names[pair]

    def reference(self, reference: Any) -> Any:
        """ZODB's object for a persistent reference; see the formats in ``ZODB.serialize``."""
        data, key = _checked(reference)
        if key not in self._references:
            self._references[key] = PersistentReference(data)
        return self._references[key]


def _checked(reference: Any) -> tuple[Any, tuple[Any, ...]]:
    """The reference with its class as a pair of texts, and what it is known by."""
    kind = type(reference)
    if kind is bytes or kind is str:
        return reference, ('oid', _oid(reference))
    if kind is tuple and len(reference) == 2:
        data = _oid(reference[0]), _class(reference[1])
        return data, ('class', *data)
    if kind is list and len(reference) == 1:
        return [_oid(reference[0])], ('weak', _oid(reference[0]))
    if kind is list and len(reference) == 2 and type(reference[0]) is str and type(reference[1]) is tuple:
        name, values = reference
        forms: dict[tuple[str, int], tuple[Callable[[Any], Any], ...]] = {
            ('w', 1): (_oid,), ('w', 2): (_oid, _database), ('n', 2): (_database, _oid),
            ('m', 3): (_database, _oid, _class)}
        checks = forms.get((name, len(values)))
        if checks is not None:
            found = tuple(check(value) for check, value in zip(checks, values, strict=True))
            return [name, found], (name, *found)
    raise Refused('it refers to something that is not an object')


def _oid(value: Any) -> bytes:
    if type(value) is str:
        value = value.encode('ascii')
    if type(value) is not bytes or len(value) != 8:
        raise Refused('it refers to something that is not an oid')
    return value


def _database(value: Any) -> str:
    if type(value) is not str or len(value) > MAX_NAME:
        raise Refused('it refers to a database without a name')
    return value


def _class(value: Any) -> tuple[str, str] | None:
    if type(value) is Name:
        return value.pair
    if value is None or type(value) is tuple and tuple(map(type, value)) == (str, str):
        return value
    raise Refused('it refers to an object of a class that is none')
