"""Loads and commits per second, ours and real ZEO's in alternation, with the ratio.

    python -m benchmarks.load [--peer-python PATH] [--rounds N] [--seconds S] [--directory PATH] [--json]

Records of 1,000 bytes in a FileStorage; server and client in processes of their own, TCP loopback.  The
file lies in memory where the system has such a directory: FileStorage calls fsync at each commit, and on
a disk one would measure little else.
Real ZEO runs in an environment of its own, with uvloop if it is installed there; without
--peer-python that environment is made.  Absolute figures move with the machine: compare within a run.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ZODB.FileStorage import FileStorage
from ZODB.utils import p64, z64

from benchmarks import _workloads
from tests.support.json_process import child_environment
from tests.support.peer_env import PeerEnvironmentError, peer_python
from tests.support.server_process import ServerProcess, package_path

OURS, ZEO = 'zeo_clone', 'ZEO'
OBJECTS = 10_000
CLIENT_LIMIT_S = 600
MEMORY = '/dev/shm'
DESCRIBE = ("from importlib import metadata, util; "
            "print(metadata.version('ZEO') + (' + uvloop' if util.find_spec('uvloop') else ''))")


def make_database(path):
    """A FileStorage of OBJECTS records, oids 1 to OBJECTS."""
    storage = FileStorage(path, create=True)
    for first in range(1, OBJECTS + 1, _workloads.MANY_OBJECTS):
        oids = [p64(n) for n in range(first, first + _workloads.MANY_OBJECTS)]
        _workloads.commit(storage, dict.fromkeys(oids, z64))
    storage.close()


def measure(package, python, seconds, parent):
    """One round of all workloads, the data below `parent`: ``{workload: operations/s}``."""
    path = package_path() if package == OURS else None
    with tempfile.TemporaryDirectory(prefix='zeo-clone-bench-', dir=parent) as directory:
        data = os.path.join(directory, 'Data.fs')
        make_database(data)
        storages = [{'kind': 'file', 'path': data}]
        with ServerProcess(storages, package=package, python=python) as server:
            options = {'package': package, 'address': server.address, 'objects': OBJECTS,
                       'seconds': seconds}
            done = subprocess.run(
                [python, str(Path(_workloads.__file__)), json.dumps(options)], check=True,
                stdout=subprocess.PIPE, env=child_environment(path), timeout=CLIENT_LIMIT_S)
    return json.loads(done.stdout)


def alternate(pythons, rounds, seconds, parent, progress):
    """``{package: [results of each round]}``; who goes first changes from round to round."""
    results = {package: [] for package in pythons}
    for number in range(rounds):
        for package in sorted(pythons, reverse=bool(number % 2)):
            progress(f'round {number + 1} of {rounds}: {package}')
            results[package].append(measure(package, pythons[package], seconds, parent))
    return results


def summarize(results):
    """``{workload: {package: median, ..., 'ratio': ours / ZEO}}``."""
    summary = {}
    for workload in results[OURS][0]:
        row = {package: statistics.median(result[workload] for result in rounds)
               for package, rounds in results.items()}
        summary[workload] = {**row, 'ratio': row[OURS] / row[ZEO]}
    return summary


def report(summary, peer, options):
    """The table as text."""
    lines = [
        f'Python {platform.python_version()}, {os.cpu_count()} cores, data in {options.directory}, '
        f'median of {options.rounds} rounds of {options.seconds:g} s per workload', '',
        f'{"workload":38}{OURS:>14}{"ZEO " + peer:>20}{"ratio":>8}',
    ]
    for workload, row in summary.items():
        lines.append(f'{workload:38}{row[OURS]:14,.0f}{row[ZEO]:20,.0f}{row["ratio"]:8.2f}')
    return '\n'.join(lines)


def find_peer(given):
    """The interpreter with real ZEO: the given one, else one that is made, with uvloop if possible."""
    if given:
        return given
    try:
        return peer_python('uvloop')
    except PeerEnvironmentError as error:
        print(f'without uvloop: {error}', file=sys.stderr)
        return peer_python()


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--peer-python', metavar='PATH', help='an interpreter that has ZEO')
    parser.add_argument('--rounds', type=int, default=3, metavar='N', help='default 3')
    parser.add_argument('--seconds', type=float, default=2.0, metavar='S',
                        help='per workload and round, default 2')
    parser.add_argument('--directory', metavar='PATH', help='where the data lie, default in memory',
                        default=MEMORY if os.path.isdir(MEMORY) else tempfile.gettempdir())
    parser.add_argument('--json', action='store_true', help='print medians and all rounds as JSON')
    options = parser.parse_args(args)
    python = find_peer(options.peer_python)
    peer = subprocess.run([python, '-c', DESCRIBE], check=True, stdout=subprocess.PIPE, text=True,
                          env=child_environment()).stdout.strip()
    results = alternate({OURS: sys.executable, ZEO: python}, options.rounds, options.seconds,
                        options.directory, lambda text: print(text, file=sys.stderr, flush=True))
    summary = summarize(results)
    if options.json:
        print(json.dumps({'peer': peer, 'median': summary, 'rounds': results}, indent=2))
    else:
        print(report(summary, peer, options))


if __name__ == '__main__':
    main()
