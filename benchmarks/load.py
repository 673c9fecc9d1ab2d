"""Loads and commits per second, ours and real ZEO's in alternation, with the ratio.

    python -m benchmarks.load [options of python -m benchmarks]

The short form of ``python -m benchmarks`` for what is looked at most often.
"""
from __future__ import annotations

import sys

from benchmarks.__main__ import run

WORKLOADS = ('cold', 'cold-threads', 'warm', 'commit-1', 'commit-1000')


def arguments(given):
    """What ``python -m benchmarks`` is to be called with."""
    named = any(option.startswith(('--peer', '--alone')) for option in given)
    return [*WORKLOADS, *([] if named else ['--peer', 'zeo6']), *given]


if __name__ == '__main__':
    run(arguments(sys.argv[1:]))
