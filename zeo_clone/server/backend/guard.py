"""The guard of conflict resolution on the server (S9).

In: a record that a storage is about to have ZODB resolve.  Out: the same in an envelope, and after the
resolution the resolved record out of it.  Any thread; resolution itself happens in the loop's.

    storage            ZODB.ConflictResolution                      here
    tryToResolveConflict
        untransform ------------------------------------------->  wrap: an envelope
                       unpickles the envelope: a class of ours,
                       and the record as mere bytes
                       Envelope._p_resolveConflict ------------>  decoder, table of names, the real class
                       pickles the envelope's new state  <------  the resolved record, as mere bytes
        transform --------------------------------------------->  unwrap: the resolved record

Why so: a proof that a record is harmless, followed by ZODB unpickling that record, would be two readers of
one text, which may differ; ZODB would look up each name by importing it, that of every object that is
referred to as well; and it would remember what it found for ever.  In an envelope no byte of a record reaches
ZODB's unpickler, whether a storage resolves in ``store``, in ``tpc_vote`` or in ``undo``, and in whatever
thread.

A storage that transforms records may ask for one in order to hand it out, so that whoever is known to read
gets it as it is: everybody while no commit is under way, else the loop's thread between the steps of that
commit, and the threads that work for clients (`read`).  A pack gets envelopes at any time (`pack`): storages
ask whether a record is that of a blob, for which ZODB unpickles its class.  The record of a blob itself comes
as it is: there is nothing to its class, and it resolves nothing.
"""
from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from struct import Struct
from typing import Any
from weakref import WeakValueDictionary

from ZODB._compat import PersistentPickler, _protocol
from ZODB.ConflictResolution import logger as zodb_log
from ZODB.ConflictResolution import persistent_id
from ZODB.POSException import ConflictError, POSKeyError

from zeo_clone.loop.runtime import Runtime
from zeo_clone.loop.throttle import Throttle
from zeo_clone.server.backend.family import Family, Name, Refused
from zeo_clone.server.backend.records import Record, class_of, read
from zeo_clone.server.backend.resolvable import Resolvable

log = logging.getLogger(__name__)

#: How often, in seconds, the log says of a class that it is not allowed to resolve; and of any class at all.
CLASS_INTERVAL_S = 3600.0
ANY_INTERVAL_S = 10.0
MAX_TOLD = 1000
MAX_FAULT = 1000    # characters of a class's own complaint
#: Classes of ZODB that everybody has and that resolve nothing: the log need not say so.
SILENT = frozenset({('persistent.mapping', 'PersistentMapping'), ('persistent.list', 'PersistentList'),
                    ('persistent.dict', 'PersistentDict'), ('ZODB.blob', 'Blob')})

_BLOB = re.compile(rb'(?:\x80[\x01-\x03])?cZODB\.blob\nBlob\n(?:q.)?\.', re.DOTALL)
#: A record whose class can be told without an unpickler.
_PLAIN_CLASS = re.compile(rb'(?:\x80.)?\(?c[^\n]*\n[^\n]*\n', re.DOTALL)
_CLASS_NAME = f'{__name__}.Envelope'
#: The two pickles of an envelope: its class, and bytes, of which only the first two are here.
_BEGINNING = f'\x80\x03c{__name__}\nEnvelope\nq\x00.\x80\x03'.encode('latin-1')
_ENDS = (b'q\x01.', b'.')
_size = Struct('<I')
_TOKEN = 8          # bytes at the beginning of an envelope's state, which say whose it is
_MAX_TEXT = 200     # characters of a class's name in a log line

#: Guards by token: ZODB makes the envelopes, and knows a class by its name only.
_GUARDS: WeakValueDictionary[bytes, Guard] = WeakValueDictionary()


class Envelope:
    """What ZODB resolves: its state is the token of a `Guard` and a record, both as bytes."""

    def _p_resolveConflict(self, old: bytes, committed: bytes, new: bytes) -> bytes:
        guard = _GUARDS[new[:_TOKEN]]
        return guard.resolve(old[_TOKEN:], committed[_TOKEN:], new[_TOKEN:])


def _is_news(record: logging.LogRecord) -> bool:
    """ZODB takes it for a fault, with a traceback each time, that the revision which a client has changed is
    gone: a pack has removed it, or it never was.  That is an ordinary conflict (L4, S16)."""
    error = record.exc_info[1] if record.exc_info else None
    return record.args != (Envelope,) or not isinstance(error, POSKeyError)


zodb_log.addFilter(_is_news)


class Guard:
    """For one storage, which the log calls `storage`.

    `resolvable` says which classes may resolve.  With `by_clients` conflicts are left to clients, apart from
    those of an undo, of which no client knows the records.
    """

    def __init__(self, storage: str, resolvable: Resolvable, by_clients: bool, runtime: Runtime) -> None:
        self._storage = storage
        self._resolvable = resolvable
        self._by_clients = by_clients
        self._runtime = runtime
        self._clock = runtime.monotonic
        self._get_ident = runtime.get_ident
        self._owner: int | None = None  # the thread of the commit that is under way
        self._working = False  # that thread is in the storage, on behalf of the commit
        self._undoing = False  # ... and undoes
        self._threads: dict[int, bool] = {}  # threads that read for clients (True), or pack (False)
        self._token = token = runtime.randbytes(_TOKEN)
        self._faults = Throttle(self._clock)
        self._told: dict[tuple[str, str], float] = {}  # when the log said that a class may not resolve
        self._told_at = -ANY_INTERVAL_S
        self._latest: tuple[str, str] | None = None  # the class of the latest conflict
        _GUARDS[token] = self

    def another(self) -> Guard:
        """One of the same kind, for commits beside."""
        return Guard(self._storage, self._resolvable, self._by_clients, self._runtime)

    # ---- loop thread: a commit ----------------------------------------------------------------------

    def begin(self) -> None:
        """A commit begins, in this thread."""
        self._owner = self._get_ident()

    def start(self, undo: bool = False) -> None:
        """The storage works for that commit until `stop`."""
        self._working = True
        self._undoing = undo

    def stop(self) -> None:
        """It has done a step."""
        self._working = self._undoing = False

    def end(self) -> None:
        """The commit is over."""
        self._owner = None

    # ---- any thread -------------------------------------------------------------------------------

    def read(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, which reads from the storage for a client."""
        return self._as(True, function)

    def pack(self, function: Callable[[], Any]) -> Any:
        """The result of `function`, which packs the storage."""
        return self._as(False, function)

    def _as(self, reading: bool, function: Callable[[], Any]) -> Any:
        ident = self._get_ident()
        self._threads[ident] = reading
        try:
            return function()
        finally:
            del self._threads[ident]

    def _is_reading(self) -> bool:
        ident, owner = self._get_ident(), self._owner
        reading = self._threads.get(ident)
        if reading is not None:
            return reading
        return owner is None or ident == owner and not self._working

    def wrap(self, record: bytes) -> bytes:
        """What ZODB may read instead of `record`."""
        if not record or self._is_reading() or _BLOB.match(record):
            return record
        return b'%bB%b%b%b.' % (_BEGINNING, _size.pack(_TOKEN + len(record)), self._token, record)

    def unwrap(self, data: bytes) -> bytes:
        """The record that `resolve` made, out of what ZODB made of it; anything else as it is."""
        if __name__.encode() not in data[:len(_BEGINNING)]:
            return data
        start = len(_BEGINNING) + 1
        if data[start - 1:start] == b'C':
            length, start = data[start], start + 1
        else:
            length, start = _size.unpack_from(data, start)[0], start + 4
        if not data.startswith(_BEGINNING) or data[start + length:] not in _ENDS:
            raise ConflictError('this ZODB writes records in a way that is not known here')
        return data[start:start + length]

    # ---- loop thread ------------------------------------------------------------------------------

    def resolve(self, old: bytes, committed: bytes, new: bytes) -> bytes:
        """The record that resolves a conflict of these three.  Raises `ConflictError` (S9)."""
        self._latest = None
        try:
            self._latest = name = class_of(new)
            resolver = self._resolver(name)
            family = Family(self._resolvable.maker)
            mine, theirs, base = (read(record, family) for record in (new, committed, old))
        except Refused as refused:
            if refused.name is not None:
                self._tell(refused.name, f', whose records hold a {_text(refused.name)},')
            raise ConflictError(f'not resolved: {refused}') from None
        try:
            resolved = resolver(mine.args)(base.state, theirs.state, mine.state)
            return self._write(mine, resolved)
        except ConflictError:
            raise
        except Exception as error:
            if not isinstance(error, ValueError):  # references that differ cannot be compared: no fault
                self._report(name, error)
            raise ConflictError(f'not resolved: {type(error).__name__}') from error

    def _resolver(self, name: tuple[str, str]) -> Callable[[tuple[Any, ...]], Any]:
        """From arguments of ``__new__`` to the method of the class `name`."""
        if self._by_clients and not self._undoing:
            raise Refused('conflicts are left to the client')
        kind = self._resolvable.find(*name)
        if kind is None and name not in SILENT:
            self._tell(name, '')
        if not hasattr(kind, '_p_resolveConflict'):
            raise Refused('its class resolves no conflicts here')
        return lambda args: kind.__new__(kind, *args)._p_resolveConflict

    def _write(self, record: Record, state: Any) -> bytes:
        """As ZODB writes it.  Nothing but what `read` has made is in there."""
        kind = self._resolvable.find(*record.name)
        form = record.form
        if type(form) is Name:
            form = kind
        elif type(form[0]) is Name:
            form = kind, form[1]
        file = io.BytesIO()
        pickler = PersistentPickler(persistent_id, file, _protocol)
        pickler.dump(form)
        pickler.dump(state)
        return file.getvalue()

    # ---- what is said about it ----------------------------------------------------------------------

    def _tell(self, name: tuple[str, str], held: str) -> None:
        """The operator may want to know, once in a while (N15)."""
        now = self._clock()
        if (now < self._told.get(name, -CLASS_INTERVAL_S) + CLASS_INTERVAL_S
                or now < self._told_at + ANY_INTERVAL_S):
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told[name] = self._told_at = now
        latest = self._latest or name
        log.info('storage %r: a conflict of %s%s was not resolved here, for the server may not use %s, or '
                 'does not have it; if it resolves conflicts, or objects of it are part of such states, '
                 "install it and put 'resolve %s' into <zeo>",
                 self._storage, _text(latest), held, _text(name), _text(name))

    def _report(self, name: tuple[str, str], error: Exception) -> None:
        """The resolution failed in a way that no conflict explains."""
        more = self._faults.admits(_text(name))
        if more is not None:
            log.error('storage %r: the _p_resolveConflict of %s failed, and the conflict stays one: %s: %s%s',
                      self._storage, _text(name), type(error).__name__, str(error)[:MAX_FAULT], more,
                      exc_info=(ConflictError, ConflictError(), error.__traceback__))

    def describe(self, error: ConflictError) -> None:
        """ZODB knows but the envelope: say the real class."""
        if error.class_name == _CLASS_NAME:
            error.class_name = '.'.join(self._latest) if self._latest else None


def _text(name: tuple[str, str]) -> str:
    text = '.'.join(name)[:_MAX_TEXT]
    return ''.join(c if c.isprintable() else '?' for c in text)


def has_plain_class(record: bytes | None) -> bool:
    """Whether an exception may be asked to name the class of `record`; ZODB unpickles others for that."""
    return not record or _PLAIN_CLASS.match(record) is not None
