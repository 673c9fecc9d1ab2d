"""Speed and memory of the client cache, beside the one of ZEO.

    python benchmarks/cache.py --peer-python /path/to/python/with/ZEO

Every figure is measured in processes of their own, ours and the peer's in turn, and is the median of the
rounds; compare only figures of one run.  Without ``--peer-python`` only ours are printed.
"""
from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

#: What is measured: key, what it is, unit, whether more is better, the ratio aimed at.
FIGURES = [
    ('fill', 'fill a new file', 'stores/s', True, 1.5),
    ('refill', 'fill on, evicting the old ones', 'stores/s', True, None),
    ('load', 'warm load(oid)', 'loads/s', True, 2.2),
    ('loadBefore', 'warm loadBefore(oid, tid)', 'loads/s', True, 2.2),
    ('threads', 'warm load, 4 threads together', 'loads/s', True, None),
    ('invalidate', 'invalidate an object', 'calls/s', True, None),
    ('index', 'memory for the index', 'bytes/object', False, None),
    ('reopen', 'open the closed file', 's', False, 3.0),
    ('first', 'first load after that', 'loads/s', True, None),
    ('killed', 'open the file of a killed process', 's', False, None),
]


def anonymous_memory():
    """Bytes of this process that are not pages of files."""
    with open('/proc/self/status') as file:
        for line in file:
            if line.startswith('RssAnon'):
                return int(line.split()[1]) * 1024
    return 0


def records_in_memory(cache):
    """Bytes of the records that a cache keeps in memory of its own; ZEO's keeps none there."""
    return cache.stats()['memory'] if hasattr(cache, 'stats') else 0


def rate(count, function):
    start = time.perf_counter()
    function()
    return count / (time.perf_counter() - start)


def calls(method, arguments):
    for argument in arguments:
        method(*argument)


def kill(directory, maker, path, size):
    """A copy of the file as it is while in use; seconds to open it."""
    copy = os.path.join(directory, 'killed')
    shutil.copy(path, copy)
    start = time.perf_counter()
    cache = maker(copy, size)
    taken = time.perf_counter() - start
    cache.close()
    return taken


def measure(maker, objects, data_size):
    """All figures of the cache class `maker`, with `objects` of `data_size` bytes."""
    directory = tempfile.mkdtemp()
    try:
        return _measure(maker, objects, data_size, directory)
    finally:
        shutil.rmtree(directory)


def _measure(maker, objects, data_size, directory):
    path = os.path.join(directory, 'cache')
    size = int(objects * (data_size + 64) * 1.05) + (1 << 20)
    tid, later, end = (n.to_bytes(8, 'big') for n in (5, 9, 12))
    oids = [n.to_bytes(8, 'big') for n in range(objects)]
    data = b'x' * data_size
    some = oids[:max(1, objects // 3)]
    found = {}
    cache = maker(path, size)
    before = anonymous_memory()
    found['fill'] = rate(objects, lambda: calls(cache.store, ((oid, tid, None, data) for oid in oids)))
    found['index'] = (anonymous_memory() - before - records_in_memory(cache)) / objects
    cache.setLastTid(tid)
    calls(cache.load, ((oid,) for oid in some))
    found['load'] = rate(len(some), lambda: calls(cache.load, ((oid,) for oid in some)))
    found['loadBefore'] = rate(
        len(some), lambda: calls(cache.loadBefore, ((oid, later) for oid in some)))
    threads = [threading.Thread(target=calls, args=(cache.load, [(oid,) for oid in some]))
               for _ in range(4)]

    def run():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found['threads'] = rate(4 * len(some), run)
    cache.close()
    start = time.perf_counter()
    cache = maker(path, size)
    found['reopen'] = time.perf_counter() - start
    found['first'] = rate(len(some), lambda: calls(cache.load, ((oid,) for oid in some)))
    if hasattr(cache, 'sync'):
        cache.sync()
    found['killed'] = kill(directory, maker, path, size)
    others = [(objects + n).to_bytes(8, 'big') for n in range(objects)]
    found['refill'] = rate(objects, lambda: calls(cache.store, ((oid, tid, None, data) for oid in others)))
    last = others[-(objects // 10 or 1):]
    found['invalidate'] = rate(len(last), lambda: calls(cache.invalidate, ((oid, end) for oid in last)))
    cache.close()
    return found


def run_child(python, which, options):
    """The figures of one round, from a process of its own."""
    command = [python, os.path.abspath(__file__), '--measure', which, '--objects', str(options.objects),
               '--data-size', str(options.data_size)]
    environment = dict(os.environ)
    if which == 'zeo_clone':
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        environment['PYTHONPATH'] = os.pathsep.join(
            [root, *filter(None, [environment.get('PYTHONPATH')])])
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def print_table(ours, theirs):
    print(f'{"":<36}{"zeo_clone":>12}{"ZEO":>12}  {"unit":<13}{"ratio":>7}  aim')
    for key, name, unit, more, aim in FIGURES:
        our = statistics.median(found[key] for found in ours)
        shown = f'{our:>12,.3f}' if our < 100 else f'{our:>12,.0f}'
        if not theirs:
            print(f'{name:<36}{shown}{"":>12}  {unit}')
            continue
        their = statistics.median(found[key] for found in theirs)
        their_shown = f'{their:>12,.3f}' if their < 100 else f'{their:>12,.0f}'
        ratio = our / their if more else their / our
        print(f'{name:<36}{shown}{their_shown}  {unit:<13}{ratio:>7.2f}  {"" if aim is None else aim}')


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--peer-python', help='a Python in which ZEO is installed')
    parser.add_argument('--objects', type=int, default=1_000_000)
    parser.add_argument('--data-size', type=int, default=100, metavar='BYTES')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--measure', choices=['zeo_clone', 'ZEO'], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure == 'zeo_clone':
        from zeo_clone.cache import ClientCache
        print(json.dumps(measure(ClientCache, options.objects, options.data_size)))
    elif options.measure == 'ZEO':
        from ZEO.cache import ClientCache
        print(json.dumps(measure(ClientCache, options.objects, options.data_size)))
    else:
        print(f'{options.objects:,} objects of {options.data_size} bytes, median of {options.rounds} rounds')
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(run_child(sys.executable, 'zeo_clone', options))
            if options.peer_python:
                theirs.append(run_child(options.peer_python, 'ZEO', options))
        print_table(ours, theirs)


if __name__ == '__main__':
    main()
