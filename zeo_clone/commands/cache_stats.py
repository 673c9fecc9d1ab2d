"""``zeo-clone cache-stats TRACE``: how well a client cache did, over time.

In: a trace file (see `zeo_clone.cache.trace`); out: a table, with ``--plot FILE`` also a picture.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from zeo_clone.cache.trace import CLEAR, HIT, INVALIDATE, MISS, OPENED, STORE, Event, read_trace
from zeo_clone.commands.options import add_version
from zeo_clone.commands.plot import save_plot

PROGRAM = 'zeo-clone cache-stats'


class Row:
    """The sums of one interval."""

    def __init__(self, start: float) -> None:
        self.start = start
        self.hits = self.misses = self.stores = self.invalidations = self.restarts = 0
        self.hit_bytes = self.stored_bytes = 0

    @property
    def loads(self) -> int:
        return self.hits + self.misses

    @property
    def hit_rate(self) -> float:
        """Hits in per cent of all loads."""
        return 100 * self.hits / self.loads if self.loads else 0.0

    def add(self, event: Event) -> None:
        kind = event.kind
        if kind == HIT:
            self.hits += 1
            self.hit_bytes += event.size
        elif kind == MISS:
            self.misses += 1
        elif kind == STORE:
            self.stores += 1
            self.stored_bytes += event.size
        elif kind == INVALIDATE:
            self.invalidations += 1
        elif kind in (OPENED, CLEAR):
            self.restarts += 1


def summarize(events: Iterable[Event], interval_s: float) -> tuple[list[Row], Row]:
    """The rows of all intervals in which something happened, and the row of all together."""
    rows: list[Row] = []
    total = Row(0.0)
    for event in events:
        start = event.time - event.time % interval_s
        if not rows or rows[-1].start != start:
            rows.append(Row(start))
        rows[-1].add(event)
        total.add(event)
    return rows, total


def line(name: str, row: Row) -> str:
    return (f'{name:<19} {row.loads:>9} {row.hits:>9} {row.hit_rate:>6.1f} {row.hit_bytes / 1e6:>9.1f} '
            f'{row.stores:>9} {row.stored_bytes / 1e6:>9.1f} {row.invalidations:>9} {row.restarts:>5}')


HEADING = (f'{"begins (UTC)":<19} {"loads":>9} {"hits":>9} {"hits %":>6} {"hits MB":>9} {"stores":>9} '
           f'{"stored MB":>9} {"invalid.":>9} {"opens":>5}')


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of its options."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Hit rates of a client cache over time, from its trace.')
    parser.add_argument('trace', help='file written because of ZEO_CLONE_CACHE_TRACE or ZEO_CACHE_TRACE')
    parser.add_argument('--interval', type=float, default=900.0, metavar='SECONDS',
                        help='length of an interval (default: 900)')
    parser.add_argument('--plot', metavar='FILE', help='also draw the hit rates (needs matplotlib)')
    add_version(parser)
    return parser


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Print the table; the exit code.  `args` defaults to the command line, `prog` is the command's name."""
    parser = command_line(prog)
    options = parser.parse_args(args)
    if options.interval <= 0:
        parser.error('--interval must be more than 0')
    try:
        rows, total = summarize(read_trace(options.trace), options.interval)
    except (OSError, ValueError) as error:
        print(f'{prog}: {error}', file=sys.stderr)
        return 1
    print(HEADING)
    for row in rows:
        print(line(f'{datetime.fromtimestamp(row.start, timezone.utc):%Y-%m-%d %H:%M:%S}', row))
    print(line('all', total))
    if options.plot:
        hours = [(row.start - rows[0].start) / 3600 for row in rows]
        save_plot(options.plot, hours, [row.hit_rate for row in rows],
                  (options.trace, 'hours', 'hits %'))
    return 0

