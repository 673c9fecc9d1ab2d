"""Measures zeo_clone and its peers side by side, and prints medians and ratios.

    python -m benchmarks                           everything, against all peers that can be had
    python -m benchmarks --list                    the names of the workloads
    python -m benchmarks cold warm --rounds 5      some of them
    python -m benchmarks --peer zeo6               against one peer that it knows how to get
    python -m benchmarks --peer mine=PATH          against what the interpreter PATH has installed
    python -m benchmarks --sync 4                  as on a disk that takes 4 ms for each sync
    python -m benchmarks --crowd 2                 beside two processes that compute all the time
    python -m benchmarks --scale                   how costs grow with ten times as much of everything

The peers it knows: zeo6 is ZEO 6.2 with uvloop; relstorage is RelStorage on PostgreSQL, where that is
installed; both in environments that are made once.  filestorage is a bare FileStorage in the client's
process.  one-server, two-servers and no-server-cache, which are measured if they are named, are servers of
ours in front of such a database.  Server and clients are processes of their own on this machine.
docs/measuring.md says what each workload does.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import catalog, growth, plot, table
from benchmarks.arena import Sizes
from benchmarks.postgres import LONGEST_SYNC_MS
from benchmarks.runner import Suite
from benchmarks.sides import DEFAULT_PEERS, SERVERS, SideError, find, ours

MEMORY = '/dev/shm'
BUSY = Path(__file__).with_name('busy.py')
SHOWN_CHARACTERS = 2000
LARGEST_CROWD = 100


def make_parser():
    usual = Sizes()
    parser = argparse.ArgumentParser(prog='python -m benchmarks', description=__doc__.partition('\n\n')[0])
    parser.add_argument('workloads', nargs='*', metavar='WORKLOAD', help='what to run, default everything')
    parser.add_argument('--list', action='store_true', help='print the names of the workloads, and end')
    parser.add_argument('--peer', action='append', default=[], metavar='NAME[=PATH]',
                        help='whom to measure besides us: an interpreter that has ZEO, RelStorage or another '
                             f'zeo_clone, or one of {", ".join([*DEFAULT_PEERS, *SERVERS])}; may be repeated')
    parser.add_argument('--alone', action='store_true', help='measure no peers')
    parser.add_argument('--scale', action='store_true',
                        help='how costs grow with ten times as many objects and clients and as large ones; '
                             'without --peer only ours')
    parser.add_argument('--rounds', type=int, default=3, metavar='N', help='default 3')
    parser.add_argument('--seconds', type=float, default=usual.seconds, metavar='S',
                        help='how long to measure a workload in a round, default 2')
    parser.add_argument('--objects', type=int, default=usual.objects, metavar='N', help='default 10000')
    parser.add_argument('--object-size', type=int, default=usual.record_bytes, metavar='BYTES',
                        help='default 1000')
    parser.add_argument('--directory', metavar='PATH', help='where the data lie, default in memory',
                        default=MEMORY if os.path.isdir(MEMORY) else tempfile.gettempdir())
    parser.add_argument('--sync', type=float, default=0.0, metavar='MS',
                        help='let each sync of the file take so much longer, on all sides; PostgreSQL waits '
                             'so long before its own (commit_delay)')
    parser.add_argument('--crowd', type=int, default=0, metavar='N',
                        help='beside N processes that compute all the time')
    parser.add_argument('--json', metavar='FILE', help='write medians, ratios and all rounds there')
    parser.add_argument('--plot', metavar='FILE', help='draw the ratios as bars there (PNG)')
    return parser


def report_progress(text):
    print(text, file=sys.stderr, flush=True)


def conditions(options):
    """Under which conditions the figures were made, in one paragraph."""
    load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
    syncs = f' Each sync takes {options.sync:g} ms longer.' if options.sync else ''
    crowd = f' Beside {options.crowd} processes that compute.' if options.crowd else ''
    where = 'in memory' if options.directory == MEMORY else 'on a file system'
    return (f'Python {platform.python_version()}, {platform.system()} {platform.release()}, '
            f'{os.cpu_count()} cores, load average at the start {load}.\n'
            f'Data in {options.directory} ({where}), {options.objects:,} objects of '
            f'{options.object_size:,} bytes.{syncs}{crowd}\n'
            f'Median (lowest-highest) of {options.rounds} rounds of {options.seconds:g} s per workload.\n'
            'TCP on loopback unless the line says otherwise; RelStorage always on a unix socket, FileStorage '
            'in the client.')


@contextlib.contextmanager
def many_files():
    """A crowd of clients has more open files than the usual soft limit allows."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@contextlib.contextmanager
def crowd(count):
    """So many processes compute meanwhile."""
    busy = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            busy.append(stack.enter_context(subprocess.Popen([sys.executable, BUSY, str(os.getpid())])))
            stack.callback(busy[-1].kill)
        yield busy


def compare(workloads, sides, sizes, options):
    """Run and report; returns the failures."""
    with Suite(workloads, sides, sizes, options.directory, report_progress) as suite:
        results = suite.run(options.rounds)
    print(table.comparison(results))
    write_json(options, sides, {'figures': table.data(results)})
    if options.plot:
        plot.save(options.plot, results)
    return results.failures


def scale(workloads, sides, sizes, options):
    """The same for how costs grow."""
    slopes, failures = growth.measure(workloads, sides, sizes, options.directory, options.rounds,
                                      report_progress)
    print(table.growth(slopes))
    write_json(options, sides, {'slopes': table.growth_data(slopes)})
    return failures


def write_json(options, sides, found):
    if options.json:
        conditions = {'python': platform.python_version(), 'cores': os.cpu_count(), 'rounds': options.rounds,
                      'seconds': options.seconds, 'directory': options.directory,
                      'objects': options.objects, 'object_size': options.object_size,
                      'crowd': options.crowd}
        document = {'conditions': conditions, 'sides': {side.name: side.label for side in sides}, **found}
        Path(options.json).write_text(json.dumps(document, indent=2) + '\n', encoding='utf-8')


def prepare(parser, options):
    """Complain of what would go wrong after ten minutes only; the sides."""
    for path in filter(None, [options.json, options.plot]):
        if not Path(path).parent.is_dir():
            parser.error(f'{path}: there is no such directory')
    if not Path(options.directory).is_dir():
        parser.error(f'--directory {options.directory}: there is no such directory')
    if options.rounds < 1:
        parser.error(f'--rounds {options.rounds}: it must be 1 or more')
    if not 0 <= options.sync <= LONGEST_SYNC_MS:
        parser.error(f'--sync {options.sync:g}: it must be 0 to {LONGEST_SYNC_MS} milliseconds')
    if not 0 <= options.crowd <= LARGEST_CROWD:
        parser.error(f'--crowd {options.crowd}: it must be 0 to {LARGEST_CROWD} processes')
    alone = options.alone or options.scale and not options.peer
    if options.plot:
        if options.scale or alone:
            parser.error('--plot draws ratios to peers: not with --scale, not with --alone')
        plot.check()
    if alone:
        return [ours()]
    try:
        return find(options.peer, report_progress)
    except SideError as error:
        parser.error(str(error))


def main(args=None):
    parser = make_parser()
    options = parser.parse_args(args)
    try:
        workloads = catalog.choose(options.workloads)
    except LookupError as error:
        parser.error(str(error))
    if options.list:
        for workload in workloads:
            print(f'{workload.name:20}{workload.figures[0].title}')
        return 0
    sides = prepare(parser, options)
    sizes = Sizes(options.objects, options.object_size, seconds=options.seconds, sync_ms=options.sync)
    print(conditions(options), end='\n\n', flush=True)
    with many_files(), crowd(options.crowd):
        failures = (scale if options.scale else compare)(workloads, sides, sizes, options)
    for workload, side, text in failures:
        print(f'{workload.name}, {side.label}, failed: {text[-SHOWN_CHARACTERS:]}', file=sys.stderr)
    return 1 if failures else 0


def run(args=None):
    """`main` as a command: what runs beside it ends also if it is told to."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(args))


if __name__ == '__main__':
    run()
