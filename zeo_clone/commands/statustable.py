"""The table of zeo-status: from a server's answer to lines of text.

In: what `ruok` answered, now and perhaps before.  Out: lines, some of them loud.  Pure functions.  Keys that
a server does not know, another ZEO for instance, are left out; texts of clients cannot do anything to a
terminal.
"""
from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from zeo_clone import troubles
from zeo_clone.commands.health import Status
from zeo_clone.wording import clean, format_age, format_bytes

#: Counters in the order in which they are shown; all get a rate.
COUNTERS = ('loads', 'stores', 'commits', 'aborts', 'conflicts', 'conflicts_resolved', 'invalidations',
            'verifications', 'verifications_failed', 'timeouts', 'silent')
HEADINGS = ('CLIENT', 'LABEL', 'AGE', 'RECEIVED', 'SENT', 'QUEUED', 'CACHE', 'TRANSACTION')
#: A tid is a time in minutes since 1900, as if all months had 31 days, and a fraction of a minute.
TICKS_PER_MINUTE = 1 << 32
NEVER = '0' * 16


class Loud(str):
    """A line that is to be seen: of trouble, or of what is `bad`."""

    def __new__(cls, text: str, bad: bool) -> Loud:
        line = super().__new__(cls, text)
        line.bad = bad
        return line

    bad: bool


class Sample(NamedTuple):
    """An answer, and when it came, in seconds of a monotonic clock."""

    status: Status
    time: float


def table(title: str, now: Sample, before: Sample | None) -> list[str]:
    """The whole report: trouble first, in `Loud` lines, then the storages that have some, then the others."""
    found = troubles.find(now.status)
    in_trouble = {trouble.storage for trouble in found}
    idle = [name for name, values in now.status.items() if name not in in_trouble and _is_idle(values)]
    folded = sorted(idle) if len(idle) < len(now.status) else []
    lines = []
    for name, values in sorted(now.status.items(), key=lambda item: (item[0] not in in_trouble, item[0])):
        if name not in folded:
            then = before.status.get(name) if before is not None else None
            elapsed_s = now.time - before.time if before is not None else 0.0
            lines += ['', *_storage(name, values), *_counters(values, then, elapsed_s),
                      *_traffic(values, then, elapsed_s), *_lock(values), *_clients(values)]
    if folded:
        lines += ['', f'empty, without clients: {", ".join(folded)}']
    lines += _server(next(iter(now.status.values()), {}))
    cleaned = [line if isinstance(line, Loud) else clean(line) for line in lines]
    return [clean(title), *loud_lines(now.status), *cleaned]


def loud_lines(status: Status) -> list[Loud]:
    """What is wrong, a line each."""
    return [Loud(clean(f'{"ALARM" if trouble.bad else "warning"}: {trouble}'), trouble.bad)
            for trouble in troubles.find(status)]


def in_columns(headings: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> list[str]:
    """The lines of a table; ``<`` or ``>`` in `sides`: to which side of a column its cells go."""
    table = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [('    ' + '  '.join(f'{cell:{side}{width}}' for cell, side, width in
                                zip(row, sides, widths, strict=True))).rstrip() for row in table]


def _is_idle(values: dict[str, Any]) -> bool:
    """Is there nothing to be seen?"""
    return values.get('last-transaction') == NEVER and not values.get('connections')


def _server(values: dict[str, Any]) -> list[str]:
    """What is the same for all storages."""
    if not {'memory', 'memory_limit', 'memory_closed', 'all_connections', 'max_connections', 'strangers',
            'max_strangers', 'turned_away'} <= values.keys():
        return []
    build = [f"zeo_clone {values['version']}, Python {values['python']}"] if 'python' in values else []
    late = f", not in time: {values['handshake_timeouts']}" if 'handshake_timeouts' in values else ''
    return ['', *build,
            f"connections: {values['all_connections']} of {values['max_connections']}, not registered: "
            f"{values['strangers']} of {values['max_strangers']}{late}, refused: {values['turned_away']}",
            f"waiting for all: {format_bytes(values['memory'])} of {format_bytes(values['memory_limit'])}, "
            f"closed because of it: {values['memory_closed']}"]


def _storage(name: str, values: dict[str, Any]) -> list[str]:
    line = f'storage {name}: '
    parts = [f"up {format_age(values['uptime'])}" if 'uptime' in values
             else f"since {values.get('start', 'an unknown time')}"]
    parts.append(_last_transaction(str(values.get('last-transaction', ''))))
    if values.get('packing') is not None:
        parts.append(f"being packed for {format_age(values['packing'])}")
    lines = [line + ', '.join(parts), *_sizes(values.get('sizes') or {}), *_relay(values.get('relay') or {})]
    if values.get('failed'):
        lines.append(Loud(clean(f'  FAILED: {troubles.failure(values)}'), True))
    return lines


def _relay(relay: dict[str, Any]) -> list[str]:
    if not {'connected', 'hits', 'misses', 'waiting', 'cache_bytes', 'cache_size', 'cache_objects'
            } <= relay.keys():
        return []
    above = 'there' if relay['connected'] else f"away for {format_age(relay.get('away') or 0)}"
    return [f"  server above: {above}, waiting for {relay['waiting']:,} objects of it",
            f"  cache: {relay['cache_objects']:,} objects, {format_bytes(relay['cache_bytes'])} of "
            f"{format_bytes(relay['cache_size'])}, hits {relay['hits']:,}, misses {relay['misses']:,}"]


def _sizes(sizes: dict[str, Any]) -> list[str]:
    parts = [f'{name} {format_bytes(sizes[key])}{more}' for key, name, more in (
        ('data', 'database', ''), ('blobs', 'blobs', f" in {sizes.get('blob_files') or 0:,} files"),
        ('pack', 'new file of the pack', '')) if sizes.get(key) is not None]
    parts += [f"free on the disk of the {disk['holds']} {format_bytes(disk['free'])} of "
              f"{format_bytes(disk['size'])}" for disk in sizes.get('disks', ())]
    return ['  ' + ', '.join(parts)] if parts else []


def _traffic(values: dict[str, Any], then: dict[str, Any] | None, elapsed_s: float) -> list[str]:
    cells = []
    for key in ('received', 'sent'):
        if isinstance(values.get(key), int):
            cell = f'{key} {format_bytes(values[key])}'
            if then is not None and elapsed_s > 0 and values[key] >= then.get(key, 0):
                cell += f' ({format_bytes((values[key] - then.get(key, 0)) / elapsed_s)}/s)'
            cells.append(cell)
    return ['  ' + ', '.join(cells)] if cells else []


def _last_transaction(tid: str) -> str:
    if tid == NEVER:
        return 'empty'
    try:
        return f'last transaction {tid_time(tid)} UTC ({tid})'
    except ValueError:
        return f'last transaction {tid or "unknown"}'


def tid_time(tid: str) -> str:
    """The time of a tid of 16 hex digits.  Raises ``ValueError``."""
    minutes, ticks = divmod(int(tid, 16), TICKS_PER_MINUTE)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    months, day = divmod(days, 31)
    year, month = divmod(months, 12)
    time = datetime.datetime(1900 + year, month + 1, day + 1, hour, minute)
    return (time + datetime.timedelta(seconds=round(ticks * 60 / TICKS_PER_MINUTE))).isoformat(' ')


def _counters(values: dict[str, Any], then: dict[str, Any] | None, elapsed_s: float) -> list[str]:
    cells = []
    for key in COUNTERS:
        if not isinstance(values.get(key), int):
            continue
        cell = f"{key.replace('_', ' ')} {values[key]:,}"
        if then is not None and elapsed_s > 0 and values[key] >= then.get(key, 0):
            cell += f' ({(values[key] - then.get(key, 0)) / elapsed_s:,.1f}/s)'
        cells.append(cell)
    return ['  ' + ', '.join(cells[:6]), *(['  ' + ', '.join(cells[6:])] if cells[6:] else [])]


def _lock(values: dict[str, Any]) -> list[str]:
    holder, waiting = values.get('lock_holder'), values.get('waiting', 0)
    if isinstance(holder, dict):
        line = (f"held by {holder.get('client')} for {holder.get('seconds', 0):.1f} s, "
                f"{holder.get('phase')}: user {holder.get('user')!r}, {holder.get('description')!r}")
    else:
        line = 'held' if values.get('lock_time') else 'free'
    lines = [f"  commit lock: {line}; transactions: {values.get('active_txns', 0)}, waiting: {waiting}"]
    names = values.get('waiting_clients') or []
    if names:
        more = f' and {waiting - len(names)} more' if waiting > len(names) else ''
        lines.append(f"  waiting: {', '.join(map(str, names))}{more}")
    return lines


def _clients(values: dict[str, Any]) -> list[str]:
    described, count = values.get('clients') or [], values.get('connections', 0)
    if not described:
        return [f'  clients: {count}']
    lines = [f'  clients: {count}', *in_columns(HEADINGS, map(_client, described), '<<>>>>><')]
    if count > len(described):
        lines.append(f'    and {count - len(described)} more')
    return lines


def _hit_rate(client: dict[str, Any]) -> str:
    """How many of its loads a client's cache has served."""
    hits, misses = client.get('hits') or 0, client.get('misses') or 0
    return f'{100 * hits / (hits + misses):.0f} %' if hits + misses else ''


def _client(client: dict[str, Any]) -> tuple[str, ...]:
    transaction = str(client.get('transaction', ''))
    return (str(client.get('address', '')), str(client.get('label', '')), format_age(client.get('age', 0)),
            format_bytes(client.get('received', 0)), format_bytes(client.get('sent', 0)),
            format_bytes(client.get('queued', 0)), _hit_rate(client),
            'read-only' if client.get('read_only') else transaction)
