"""``zeo-clone cache-simulate TRACE``: what other sizes of the client cache would bring.

In: a trace file (see `zeo_clone.cache.trace`); out: a table, with ``--plot FILE`` also a picture.  The
model gives up records as `zeo_clone.cache.ring` does: in the order of arrival, with a second chance for
what was read meanwhile.
"""
from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from zeo_clone.cache.format import BASE_FILE, ZERO, block_size
from zeo_clone.cache.trace import CLEAR, HIT, INVALIDATE, MISS, OPENED, STORE, Event, read_trace
from zeo_clone.commands.options import add_version, argument
from zeo_clone.commands.plot import save_plot

PROGRAM = 'zeo-clone cache-simulate'
#: Sizes tried if none are given, as multiples of the traced one.
DEFAULT_FACTORS = (0.25, 0.5, 1, 2, 4, 8)
_UNITS = {'KB': 1 << 10, 'MB': 1 << 20, 'GB': 1 << 30}


class Kept:
    """A revision in the simulated cache."""

    def __init__(self, end_tid: bytes, size: int) -> None:
        self.end_tid = end_tid
        self.size = size
        self.hot = False


class SimulatedCache:
    """A cache of `size` bytes without the data."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.capacity = self.free = max(0, size - BASE_FILE)
        self.kept: OrderedDict[tuple[bytes, bytes], Kept] = OrderedDict()  # oid, start; oldest first
        self.starts: dict[bytes, list[bytes]] = {}  # of the revisions of each oid
        self.hits = self.misses = 0

    @property
    def hit_rate(self) -> float:
        """Hits in per cent of all loads."""
        loads = self.hits + self.misses
        return 100 * self.hits / loads if loads else 0.0

    def event(self, event: Event) -> None:
        """What was done to the traced cache, done to this one."""
        kind = event.kind
        if kind == HIT:
            if not self._load(event.oid, event.start_tid):
                self._store(event)
        elif kind == MISS:
            self._load(event.oid, self._find(event.oid, event.tid))
        elif kind == STORE:
            self._store(event)
        elif kind == INVALIDATE:
            self._end(event.oid, event.tid)
        elif kind == CLEAR:
            self.kept.clear()
            self.starts.clear()
            self.free = self.capacity

    def _load(self, oid: bytes, start: bytes | None) -> bool:
        kept = None if start is None else self.kept.get((oid, start))
        if kept is None:
            self.misses += 1
            return False
        kept.hot = True
        self.hits += 1
        return True

    def _find(self, oid: bytes, before: bytes) -> bytes | None:
        """The start of the revision valid just before `before`; of the current one, if that is zero."""
        for start in self.starts.get(oid, ()):
            end = self.kept[oid, start].end_tid
            if end == ZERO and (before == ZERO or start < before) or start < before <= end:
                return start
        return None

    def _store(self, event: Event) -> None:
        key, size = (event.oid, event.start_tid), block_size(event.size)
        if key in self.kept or size > self.capacity:
            return
        while self.free < size:
            oldest, kept = self.kept.popitem(last=False)
            if kept.hot:
                kept.hot = False
                self.kept[oldest] = kept
            else:
                self.free += kept.size
                self._forget(*oldest)
        self.free -= size
        self.kept[key] = Kept(event.tid, size)
        self.starts.setdefault(event.oid, []).append(event.start_tid)

    def _end(self, oid: bytes, tid: bytes) -> None:
        """The current revision ends at `tid`; zero: it is dropped."""
        start = self._find(oid, ZERO)
        if start is None:
            return
        if tid == ZERO:
            self.free += self.kept.pop((oid, start)).size
            self._forget(oid, start)
        elif start < tid:
            self.kept[oid, start].end_tid = tid

    def _forget(self, oid: bytes, start: bytes) -> None:
        starts = self.starts[oid]
        starts.remove(start)
        if not starts:
            del self.starts[oid]


def simulate(events: Iterable[Event], sizes: list[int]) -> list[SimulatedCache]:
    """One simulated cache for each of `sizes`, after all `events`.

    Without sizes: multiples of the traced cache's.  Raises ``ValueError`` if the trace does not tell it.
    """
    caches = [SimulatedCache(size) for size in sizes]
    for event in events:
        if event.kind == OPENED and not caches:
            traced = int.from_bytes(event.oid, 'big')
            caches = [SimulatedCache(int(traced * factor)) for factor in DEFAULT_FACTORS]
        for cache in caches:
            cache.event(event)
    if not caches:
        raise ValueError('the trace is empty')
    return caches


def parse_size(text: str) -> int:
    """``20MB`` -> 20971520.  Raises ``ValueError``."""
    number, unit = (text[:-2], text[-2:].upper()) if text[-2:].upper() in _UNITS else (text, '')
    try:
        size = float(number)
    except ValueError:
        size = -1.0
    if not 0 <= size < float('inf'):
        raise ValueError(f'{text!r} is not a size: a number of bytes, 0 or more, or one with a '
                         'suffix KB, MB or GB')
    return int(size * _UNITS.get(unit, 1))


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of its options."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Hit rates that other cache sizes would have had, from a trace.')
    parser.add_argument('trace', help='file written because of ZEO_CLONE_CACHE_TRACE or ZEO_CACHE_TRACE')
    parser.add_argument('sizes', nargs='*', type=argument(parse_size), metavar='SIZE',
                        help='such as 500MB (default: from a quarter to 8 times the traced size)')
    parser.add_argument('--plot', metavar='FILE', help='also draw the hit rates (needs matplotlib)')
    add_version(parser)
    return parser


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Print the table; the exit code.  `args` defaults to the command line, `prog` is the command's name."""
    options = command_line(prog).parse_args(args)
    try:
        caches = simulate(read_trace(options.trace), options.sizes)
    except (OSError, ValueError) as error:
        print(f'{prog}: {error}', file=sys.stderr)
        return 1
    print(f'{"cache MB":>10} {"hits":>10} {"hits %":>7} {"to the server":>14} {"used MB":>9}')
    for cache in caches:
        used = (cache.capacity - cache.free) / (1 << 20)
        print(f'{cache.size / (1 << 20):>10.2f} {cache.hits:>10} {cache.hit_rate:>7.1f} '
              f'{cache.misses:>14} {used:>9.2f}')
    if options.plot:
        save_plot(options.plot, [cache.size / (1 << 20) for cache in caches],
                  [cache.hit_rate for cache in caches], (options.trace, 'cache MB', 'hits %'), log_x=True)
    return 0

