"""zeo-status --top: who loads and commits how much just now, and what is loaded most.

In: two answers to `ruok`.  Out: lines.  Pure functions.  Another ZEO tells none of it.
"""
from __future__ import annotations

from collections import Counter
from typing import Any

from zeo_clone.commands.statustable import Sample, in_columns, loud_lines
from zeo_clone.wording import clean, format_bytes

#: So many clients are shown, the busiest first.
MAX_CLIENTS = 15
#: What is counted of each client.
COUNTED = ('loads', 'commits', 'received', 'sent')
HEADINGS = ('CLIENT', 'LABEL', 'LOADS/S', 'COMMITS/S', 'RECEIVED/S', 'SENT/S')


def busiest(title: str, now: Sample, before: Sample | None) -> list[str]:
    """The whole report; rates need a sample of before."""
    lines: list[str] = [clean(title), *loud_lines(now.status)]
    elapsed_s = now.time - before.time if before is not None else 0.0
    for name, values in sorted(now.status.items()):
        hot = values.get('hot') or {}
        if values.get('connections') or hot.get('objects'):
            then = before.status.get(name, {}) if before is not None else {}
            lines += map(clean, ['', *_clients(name, values, then, elapsed_s), *_objects(hot),
                                 *_conflicts(values.get('conflict_classes') or {})])
    if len(lines) > 1:
        return lines
    ours = all('hot' in values for values in now.status.values())
    return [*lines, '', 'no client is connected, and ' + (
        'nothing has been loaded' if ours else 'this server does not tell what has been loaded')]


def _clients(name: str, values: dict[str, Any], then: dict[str, Any], elapsed_s: float) -> list[str]:
    described = values.get('clients') or []
    if not values.get('connections'):
        return [f'storage {name}: no client is connected']
    if not described or 'loads' not in described[0]:
        return [f'storage {name}: this server does not tell what each client does']
    if elapsed_s <= 0:
        return [f'storage {name}: how much is told from the second time on']
    rates = {key: Counter({which: (count - _counts(then, key)[which]) / elapsed_s
                           for which, count in _counts(values, key).items()}) for key in COUNTED}
    total = {key: sum(rates[key].values()) for key in COUNTED}

    def share(which: tuple[str, str]) -> float:
        return sum(rates[key][which] / total[key] for key in ('loads', 'commits') if total[key])

    order = sorted(rates['loads'], key=share, reverse=True)
    rows = [(*which, f"{rates['loads'][which]:,.1f}", f"{rates['commits'][which]:,.1f}",
             format_bytes(rates['received'][which]), format_bytes(rates['sent'][which]))
            for which in order[:MAX_CLIENTS]]
    more = [f'    and {len(order) - MAX_CLIENTS} more'] if len(order) > MAX_CLIENTS else []
    return [f"storage {name}: {total['loads']:,.1f} loads/s, {total['commits']:,.1f} commits/s",
            *in_columns(HEADINGS, rows, '<<>>>>'), *more]


def _counts(values: dict[str, Any], key: str) -> Counter[tuple[str, str]]:
    """One value of each client, by address and label; those that share both are added up."""
    counts: Counter[tuple[str, str]] = Counter()
    for client in values.get('clients') or []:
        counts[str(client.get('address', '')), str(client.get('label', ''))] += client.get(key, 0)
    return counts


def _objects(hot: dict[str, Any]) -> list[str]:
    rows = [(f'0x{oid}', f'{count:,}', name or 'not known yet')
            for oid, count, name in hot.get('objects', ())]
    if not rows:
        return []
    return [f"  of the last {hot['loads']:,} loads:", *in_columns(('OBJECT', 'LOADS', 'CLASS'), rows, '<><')]


def _conflicts(classes: dict[str, int]) -> list[str]:
    if not classes:
        return []
    told = sorted(classes.items(), key=lambda item: -item[1])
    return ['  conflicts since the start: ' + ', '.join(f'{name} {count:,}' for name, count in told)]
