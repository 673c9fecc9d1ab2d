"""zeo-status --doctor: what an experienced operator would look at, and what to do about it.

In: an answer to `ruok`, and how long it took.  Out: findings, the worst first.  What is trouble now comes
from `troubles`; here is, besides, what is not well in the long run: caches that are too small, conflicts, old
peers, a disk that is slow or too small for a pack.  Pure functions.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from zeo_clone import troubles
from zeo_clone.commands.statustable import NEVER
from zeo_clone.troubles import Trouble
from zeo_clone.wording import format_bytes

#: A server that takes longer to answer, in seconds, is busy with something else.
SLOW_ANSWER_S = 1.0
#: A part of all caches that came back was too old, a part of all transactions conflicted: that is much ...
MANY_DROPPED, MANY_CONFLICTS = 0.1, 0.05
#: ... if there have been so many.
ENOUGH = 20
#: Of a client's loads so many should come from its cache, once it has made some.
HIT_RATE, ENOUGH_LOADS = 0.8, 10_000
#: One in a hundred loads takes longer, in seconds; one in twenty commits waits longer for the disk.
SLOW_LOAD_S, SLOW_FINISH_S = 0.05, 1.0
#: What is looked at, for whoever wants to know.
CHECKED = ('storages, commit lock, waiting transactions, clients that do not read, disks, room for a pack, '
           'caches that were dropped, conflicts, cache hit rates, versions of clients, times of loads and '
           'commits, certificate, memory, connections')


def examine(status: dict[str, dict[str, Any]], took_s: float) -> list[Trouble]:
    """All that is not well."""
    found = troubles.find(status)
    server: dict[str, Any] = next(iter(status.values()), {})
    if not status:
        found.append(Trouble(True, 'storages', None, 'it has no storage', 'give it one in its configuration'))
    if took_s >= SLOW_ANSWER_S:
        found.append(Trouble(False, 'slow', None, f'it took {took_s:.1f} s to answer',
                             'look at its processor, and at the network between'))
    if status and 'lock_holder' not in server:
        found.append(Trouble(False, 'foreign', None, 'it is not a zeo_clone, and tells little about itself',
                             'only counters and storages could be looked at'))
    for name, values in sorted(status.items()):
        found += _of_storage(name, values)
    return sorted(found, key=lambda trouble: not trouble.bad)


def _of_storage(name: str, values: dict[str, Any]) -> Iterator[Trouble]:
    # What the server above has is not known before that was met.
    if values.get('last-transaction') == NEVER and (values.get('relay') or {}).get('away') is None:
        yield Trouble(False, 'empty', name, 'it is empty', 'is this the database that you mean?')
    yield from _dropped(name, values)
    yield from _conflicts(name, values)
    yield from _room_for_pack(name, values)
    yield from _times(name, values.get('latency'))
    yield from _clients(name, values)
    if values.get('silent'):
        yield Trouble(False, 'silent', name,
                      f'{values["silent"]} clients were not heard of any more since the start',
                      'their hosts or the network failed, or a firewall drops what is idle')


def _dropped(name: str, values: dict[str, Any]) -> Iterator[Trouble]:
    failed, total = values.get('verifications_failed', 0), values.get('verifications', 0)
    if total >= ENOUGH and failed >= MANY_DROPPED * total:
        yield Trouble(False, 'dropped', name,
                      f'{failed} of {total} caches were too old when their clients came back, and dropped',
                      'make invalidation-queue-size larger, or set invalidation-age')


def _conflicts(name: str, values: dict[str, Any]) -> Iterator[Trouble]:
    conflicts, commits = values.get('conflicts', 0), values.get('commits', 0)
    if conflicts >= ENOUGH and conflicts >= MANY_CONFLICTS * (commits + conflicts):
        classes = Counter(values.get('conflict_classes') or {})
        worst = f', most of {classes.most_common(1)[0][0]}' if classes else ''
        yield Trouble(False, 'conflicts', name, f'{conflicts} conflicts beside {commits} commits{worst}',
                      'keep what many change in BTrees or their lengths, or let that class resolve '
                      'conflicts (resolve)')


def _room_for_pack(name: str, values: dict[str, Any]) -> Iterator[Trouble]:
    sizes = values.get('sizes') or {}
    size = sizes.get('data') or 0
    for disk in sizes.get('disks', ()):
        if disk['holds'].startswith('database') and disk['free'] < size:
            yield Trouble(False, 'room', name,
                          f'{format_bytes(disk["free"])} are free, and a pack may need {format_bytes(size)}',
                          'make room before you pack')


def _times(name: str, latency: dict[str, Any] | None) -> Iterator[Trouble]:
    if latency is None:
        return
    load, finish = _quantile(latency, 'load', 0.99), _quantile(latency, 'finish', 0.95)
    if load >= SLOW_LOAD_S:
        yield Trouble(False, 'loads', name, f'one in a hundred loads took {load:g} s or longer',
                      'the disk is slow, or its memory too small; slow-load 100ms names them')
    if finish >= SLOW_FINISH_S:
        yield Trouble(False, 'finish', name, f'one in twenty commits took {finish:g} s or longer at its end',
                      'the disk is slow when it syncs; slow-commit 1s names them')


def _quantile(latency: dict[str, Any], key: str, part: float) -> float:
    """Below which bound that part of the durations is not; 0.0 if there are too few."""
    counts = latency[key]['counts']
    total = sum(counts)
    if total < ENOUGH:
        return 0.0
    bounds: list[float] = [0.0, *latency['bounds']]
    return next(bound for bound, below in zip(bounds, accumulate(counts), strict=True)
                if below >= part * total)


def _clients(name: str, values: dict[str, Any]) -> Iterator[Trouble]:
    clients = values.get('clients') or []
    old = [client for client in clients if client.get('protocol') == 'Z4']
    if old:
        yield Trouble(False, 'peers', name, f'{_names(old)}: of ZEO 4 or older', 'they work, but cannot find '
                      'out what became of a commit when the connection was lost: replace them')
    others = [client for client in clients if client.get('version') not in (None, values.get('version'))]
    if others:
        versions = ', '.join(sorted({client['version'] for client in others}))
        yield Trouble(False, 'peers', name, f'{_names(others)}: of another zeo_clone ({versions})',
                      f'the server is {values.get("version")}: bring them to the same')
    for client in clients:
        hits, misses = client.get('hits') or 0, client.get('misses') or 0
        if hits + misses >= ENOUGH_LOADS and hits < HIT_RATE * (hits + misses):
            yield Trouble(False, 'cache', name,
                          f'{_names([client])}: {100 * hits / (hits + misses):.0f} % of its loads came from '
                          'its cache', 'make its cache-size larger')


def _names(clients: list[dict[str, Any]]) -> str:
    more = f' and {len(clients) - troubles.MAX_NAMED} more' if len(clients) > troubles.MAX_NAMED else ''
    return ', '.join(map(troubles.name_of, clients[:troubles.MAX_NAMED])) + more
