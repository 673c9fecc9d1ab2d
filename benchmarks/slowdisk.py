"""Runs a program as if its files lay on a slower disk: each sync takes MS milliseconds longer.

    python slowdisk.py MS PROGRAM ARGUMENTS...

It runs in the environment of each side, before anything of that side is imported.
"""
from __future__ import annotations

import functools
import os
import runpy
import sys
import time


def slower(sync, seconds):
    @functools.wraps(sync)
    def wrapper(fd):
        sync(fd)
        time.sleep(seconds)
    return wrapper


if __name__ == '__main__':
    milliseconds, *sys.argv = sys.argv[1:]
    for name in 'fsync', 'fdatasync':
        setattr(os, name, slower(getattr(os, name), float(milliseconds) / 1000))
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name='__main__')
