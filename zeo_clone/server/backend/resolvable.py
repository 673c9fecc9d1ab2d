"""Which classes may resolve conflicts on the server: the operator's word, never a record's (S9).

In: names and prefixes from the configuration; a (module, name) pair that a record names.  Out: the class,
imported when it is first asked for, or None.  Nothing that is not allowed here is ever imported.  Loop
thread.

A name may also stand for objects inside of a state, those that are not persistent themselves.
"""
from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from persistent import Persistent

from zeo_clone.server.backend.constructors import MAKERS, Maker, NotAllowed

log = logging.getLogger(__name__)

_KEY = re.compile(r'(?:[^\W\d]\w*\.)+(?:[^\W\d]\w*|\*)')
#: Classes remembered.  With more, all are looked up anew.
MAX_FOUND = 1000

#: Keys and values: Object, 32 and 64 bits, with and without sign, Float.
_TREES = ('OO', 'OI', 'OL', 'OU', 'OQ', 'IO', 'II', 'IF', 'IU', 'LO', 'LL', 'LF', 'LQ',
          'UO', 'UU', 'UF', 'UI', 'QO', 'QQ', 'QF', 'QL', 'fs')

#: What may resolve without being named in the configuration.
DEFAULT = frozenset({
    # BTrees, under today's names and those of old records.
    *((f'BTrees.{private}{tree}BTree', f'{tree}{kind}') for tree in _TREES for private in ('', '_')
      for kind in ('BTree', 'Bucket', 'TreeSet', 'Set')),
    ('BTrees.Length', 'Length'),
    # zope.minmax
    ('zope.minmax._minmax', 'Maximum'), ('zope.minmax._minmax', 'Minimum'),
    ('zope.minmax', 'Maximum'), ('zope.minmax', 'Minimum'),
    # zc.queue
    *(('zc.queue._queue', name) for name in ('Queue', 'BucketQueue', 'PersistentQueue', 'CompositeQueue',
                                             'CompositePersistentQueue')),
    *(('zc.queue', name) for name in ('Queue', 'PersistentQueue', 'CompositeQueue',
                                      'CompositePersistentQueue')),
    # Products.Sessions (Zope's sessions)
    ('Products.Transience.TransientObject', 'TransientObject'),
    ('Products.Transience.Transience', 'Increaser'), ('Products.Transience.Transience', 'Length2'),
    # Products.QueueCatalog
    ('Products.QueueCatalog.CatalogEventQueue', 'CatalogEventQueue'),
    # plone.scale
    ('plone.scale.storage', 'ScalesDict'),
    # zope.keyreference and five.intid (Plone): no class that resolves, but the keys of the BTree of all ids
    ('zope.keyreference.persistent', 'KeyReferenceToPersistent'),
    ('five.intid.keyreference', 'KeyReferenceToPersistent'),
})


def check_key(text: str) -> str:
    """A value of ``resolve``: a class, ``package.module.Class``, or all of a package, ``package.*``.

    Raises ValueError.
    """
    if not _KEY.fullmatch(text):
        raise ValueError(f'{text!r} names no class: give package.module.Class, or package.* for all classes '
                         'of a package')
    return text


class Resolvable:
    """`keys`: what may resolve besides `DEFAULT`, as `check_key` has it."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        checked = [check_key(key) for key in keys]
        named = [key.rpartition('.') for key in checked if not key.endswith('.*')]
        self._named = [(module, name) for module, _, name in named]
        self._exact = DEFAULT.union(self._named)
        self._prefixes = tuple(key[:-1] for key in checked if key.endswith('.*'))
        self._found: dict[tuple[str, str], Any] = {}

    def __repr__(self) -> str:
        return f'<Resolvable, {len(self._exact)} names, {self._prefixes}>'

    def allows(self, module: str, name: str) -> bool:
        """May the server import and use that class?"""
        return (module, name) in self._exact or f'{module}.{name}'.startswith(self._prefixes)

    def import_named(self) -> None:
        """Import the classes that the operator has named, rather now than in the middle of a commit."""
        for module, name in self._named:
            if self.find(module, name) is None:
                log.warning('resolve %s.%s: there is no such class here, so that its conflicts '
                            'stay conflicts; install it for the server, or correct the key', module, name)

    def find(self, module: str, name: str) -> Any:
        """The class of that name; None if it is not allowed, or is none, or is not installed."""
        pair = module, name
        if pair not in self._found:
            if not self.allows(module, name):
                return None
            if len(self._found) >= MAX_FOUND:
                self._found.clear()
            self._found[pair] = self._import(module, name)
        return self._found[pair]

    def _import(self, module: str, name: str) -> Any:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except Exception as error:
            log.debug('%s.%s may resolve conflicts, but cannot be imported', module, name, exc_info=error)
            return None
        # What a package has imported from elsewhere is not its own.
        if not isinstance(found, type) or not ((module, name) in self._exact
                                               or self.allows(found.__module__, found.__qualname__)):
            return None
        return found

    def maker(self, module: str, name: str) -> Maker | None:
        """How objects of that name, inside of a state, are made; None if there must not be any."""
        fixed = MAKERS.get((module, name))
        if fixed is not None:
            return fixed
        kind = self.find(module, name)
        if kind is None or issubclass(kind, Persistent):
            return None
        make: Callable[[Any], Any] = kind
        return Maker(lambda args: make(*args), lambda args: kind.__new__(kind, *args), _set_state)


def _set_state(target: Any, state: Any) -> None:
    """As unpicklers do it."""
    setstate = getattr(target, '__setstate__', None)
    if setstate is not None:
        setstate(state)
        return
    slots = None
    if type(state) is tuple and len(state) == 2:
        state, slots = state
    for values in (state, slots):
        if values is not None and (type(values) is not dict or not {str}.issuperset(map(type, values))):
            raise NotAllowed('an object with a state that is no dict')
    if state:
        target.__dict__.update(state)
    for name, value in (slots or {}).items():
        setattr(target, name, value)
