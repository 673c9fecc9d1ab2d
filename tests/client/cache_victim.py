"""Client processes that are killed: forks children that read through one persistent cache.

    python cache_victim.py ADDRESS-AS-JSON CACHE-PATH OIDS

A line on stdin is a command: ``start`` forks a reader and answers ``reading`` once it has read
something, ``kill`` kills it with -9 and answers ``killed``.  The end of stdin ends it.  Nothing of the
product is used before the fork.
"""
from __future__ import annotations

import itertools
import json
import os
import signal
import sys

from ZODB.utils import maxtid, p64

from zeo_clone.client.storage import ClientStorage


def read_on(address, path, oids, ready):
    storage = ClientStorage(tuple(address), cache=path, cache_size=200_000, wait_timeout=30)
    for count in itertools.count():
        for number in range(oids):
            storage.loadBefore(p64(number), maxtid)
        if not count:
            os.write(ready, b'x')


def main():
    address, path, oids = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    child = 0
    for command in sys.stdin:
        if command == 'start\n':
            ready, writer = os.pipe()
            child = os.fork()
            if not child:
                try:
                    read_on(address, path, oids, writer)
                finally:
                    os._exit(1)
            os.close(writer)
            answer = 'reading' if os.read(ready, 1) else 'failed'
            os.close(ready)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            answer = 'killed'
        print(answer, flush=True)


if __name__ == '__main__':
    main()
