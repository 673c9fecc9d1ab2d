"""Which of what a server says about itself is trouble, and what to do about it.

In: the status of each storage, as `ruok` answers; another ZEO's has fewer keys.  Out: `Trouble`s, the worst
first.  The page, zeo-status, its ``--doctor`` and zeo-nagios all say what is found here, by the limits of
`thresholds`.  Pure functions.
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from zeo_clone.thresholds import (
    DISK_FULL,
    DISK_FULL_BYTES,
    DISK_LOW,
    DISK_LOW_BYTES,
    EXPIRES_S,
    HELD_S,
    PACK_S,
    RECENT_S,
    STALLED_S,
    USED,
    WAITING,
)
from zeo_clone.wording import format_age, format_bytes

Values = dict[str, Any]
#: Clients that do not read are named up to this number.
MAX_NAMED = 3
#: By the kind of a storage: what to do if that is away of which it lives.
ADVICE = {
    'database': 'see whether PostgreSQL runs and lets this machine in (zeo-clone check asks it); all goes on '
                'by itself when it is back',
    'relay': 'see whether that server runs and can be reached from here; all goes on by itself when it is '
             'back',
}


class Trouble(NamedTuple):
    """`bad`: somebody cannot work, or soon cannot; else it is a warning.  `kind`: a word for machines;
    `storage`: its name, None: the server as a whole; what is wrong, and what to do, without a full stop.
    """

    bad: bool
    kind: str
    storage: str | None
    text: str
    advice: str

    @property
    def where(self) -> str:
        """Before the text, for people."""
        return 'server' if self.storage is None else f'storage {self.storage}'

    def __str__(self) -> str:
        return f'{self.where}: {self.text}'


def find(status: dict[str, Values]) -> list[Trouble]:
    """All that is wrong now, what is bad first."""
    found = [trouble for name, values in sorted(status.items()) for trouble in _of_storage(name, values)]
    found += _of_server(next(iter(status.values()), {}))
    return sorted(found, key=lambda trouble: not trouble.bad)


def _of_storage(name: str, values: Values) -> Iterator[Trouble]:
    if values.get('failed'):
        yield Trouble(True, 'failed', name, failure(values),
                      next((advice for kind, advice in ADVICE.items() if _away(kind, values) is not None),
                           'look at its disk and at the log; the next commit that succeeds ends this alarm'))
    yield from _commit_lock(name, values)
    yield from _stalled(name, values)
    for disk in (values.get('sizes') or {}).get('disks', ()):
        yield from _disk(name, disk)
    yield from _recent(name, values, 'verifications_failed', 'verification',
                       'a client came back with a cache that was too old and was dropped',
                       'make invalidation-queue-size larger, or set invalidation-age')
    yield from _recent(name, values, 'timeouts', 'timeout',
                       'a client held the commit lock beyond transaction-timeout and was disconnected',
                       "the log names it: look for 'Transaction timeout'")
    packing = values.get('packing')
    if packing is not None and packing >= PACK_S:
        yield Trouble(False, 'pack', name, f'it has been packed for {format_age(packing)}',
                      'see whether its disk is busy and the new file grows; pack more often, or by night')


def failure(values: Values) -> str:
    """What a storage that has failed has failed in."""
    database_s, above_s = _away('database', values), _away('relay', values)
    if database_s is not None:
        return f'its database has been away for {format_age(database_s)}: {values["failed"]}'
    if above_s is not None:
        return f'the server above has been away for {format_age(above_s)}: only what is cached is read'
    return f'it has failed in {values["failed"]}'


def _away(kind: str, values: Values) -> float | None:
    """Since so many seconds that is away which a storage of a `kind` needs; None for others."""
    seconds: float | None = (values.get(kind) or {}).get('away')
    return seconds


def _commit_lock(name: str, values: Values) -> Iterator[Trouble]:
    holder, waiting = values.get('lock_holder'), values.get('waiting', 0)
    queue = f'{waiting} {"transaction waits" if waiting == 1 else "transactions wait"}'
    if isinstance(holder, dict) and holder.get('seconds', 0) >= HELD_S:
        who = f'{holder.get("client")}, {holder.get("phase")}, user {holder.get("user") or "-"}, ' \
              f'{holder.get("description") or "no description"}'
        yield Trouble(waiting > 0, 'lock', name,
                      f'the commit lock has been held for {format_age(holder["seconds"])} by {who}; '
                      f'{queue if waiting else "nobody waits"}',
                      'see what that client does; zeo-clone status --disconnect holder frees the lock')
    elif waiting >= WAITING:
        yield Trouble(False, 'waiting', name, f'{queue} for the commit lock',
                      'see with zeo-clone status --top who commits most, and whether the disk is slow')


def _stalled(name: str, values: Values) -> Iterator[Trouble]:
    stalled = [client for client in values.get('clients') or () if client.get('stalled', 0) >= STALLED_S]
    if stalled:
        names = ', '.join(name_of(client) for client in stalled[:MAX_NAMED])
        more = f' and {len(stalled) - MAX_NAMED} more' if len(stalled) > MAX_NAMED else ''
        queued = format_bytes(sum(client.get('queued', 0) for client in stalled))
        yield Trouble(False, 'stalled', name, f'{names}{more}: {queued} wait, and nothing has been read for '
                      f'{format_age(max(client["stalled"] for client in stalled))}',
                      'that process hangs, or its network does: look at it, or disconnect it')


def name_of(client: Values) -> str:
    """A client's address, with its label."""
    address, label = client.get('address', ''), client.get('label')
    return f'{address} ({label})' if label else str(address)


def _disk(name: str, disk: Values) -> Iterator[Trouble]:
    free, size = disk.get('free', 0), disk.get('size', 0)
    room = f'{format_bytes(free)} of {format_bytes(size)} are free on the disk of the {disk.get("holds")}'
    if free < min(DISK_FULL * size, DISK_FULL_BYTES):
        yield Trouble(True, 'disk', name, f'the disk is full: {room}', 'make room at once: commits fail')
    elif free < min(DISK_LOW * size, DISK_LOW_BYTES):
        yield Trouble(False, 'disk', name, f'the disk is filling up: {room}',
                      'make room; a pack needs some, too, before it gives any back')


def _recent(name: str | None, values: Values, key: str, kind: str, text: str, advice: str
            ) -> Iterator[Trouble]:
    """Something that is counted under `key` has happened lately."""
    age = (values.get('latest') or {}).get(key)
    if age is not None and age <= RECENT_S:
        yield Trouble(False, kind, name,
                      f'{text} {format_age(age)} ago ({values.get(key, 0)} since the start)', advice)


def _of_server(values: Values) -> Iterator[Trouble]:
    yield from _recent(None, values, 'memory_closed', 'memory',
                       'more than memory-limit waited for clients, and one was disconnected',
                       'the log names it; let that client read, or make memory-limit larger')
    used, limit = values.get('memory', 0), values.get('memory_limit', 0)
    if limit and used >= USED * limit:
        yield Trouble(False, 'memory', None,
                      f'{format_bytes(used)} wait for clients, and {format_bytes(limit)} may (memory-limit)',
                      'see which client has most queued: it does not read; who has most is disconnected next')
    yield from _recent(None, values, 'turned_away', 'connections',
                       'a connection was refused because there was no room',
                       'see who has so many; or make max-connections and the limit of descriptors larger')
    count, most = values.get('all_connections', 0), values.get('max_connections', 0)
    if most and count >= USED * most:
        yield Trouble(False, 'connections', None, f'{count} connections are open, of {most} that may be',
                      'see who has so many; or make max-connections and the limit of descriptors larger')
    expires = values.get('tls_expires')
    if expires is not None and expires < EXPIRES_S:
        text = (f'its certificate ends in {format_age(expires)}' if expires > 0
                else f'its certificate ended {format_age(-expires)} ago: no client gets in')
        yield Trouble(expires <= 0, 'tls', None, text,
                      'put a new one in its place: the server reads it without a restart')
