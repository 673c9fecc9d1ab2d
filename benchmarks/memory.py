"""How much memory server and client take for large things, printed.

    python -m benchmarks.memory [--blob-mb N] [--objects N] [--directory PATH]

One blob goes up and down again; one transaction of many objects of 1,000 bytes commits; ten packs follow.
Server and client are processes of their own; each figure is how far its resident memory rose above what
it was before the step, at its highest, and how long the step took.  Linux only.
"""
from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.support.console_process import Console
from tests.support.memory import Peak, resident_bytes
from tests.support.server_process import ServerProcess

MB = 1 << 20

PREPARE = """
import os
from ZODB.utils import p64, z64
from ZODB.Connection import TransactionMetaData
def commit(write):
    t = TransactionMetaData()
    storage.tpc_begin(t)
    write(t)
    storage.tpc_vote(t)
    return storage.tpc_finish(t)
"""

UPLOAD = """
with open({path!r}, 'wb') as file:
    piece = os.urandom(1 << 20)
    for _ in range({megabytes}):
        _ = file.write(piece)
"""

SEND = """
tid = commit(lambda t: storage.storeBlob(p64(1), z64, b'cZODB.blob\\nBlob\\n.N.', {path!r}, '', t))
tid
"""

DOWNLOAD = """
file = storage.openCommittedBlobFile(p64(1), {tid!r})
file.close()
"""

MANY = """
data = bytes(1000)
def write(t):
    for number in range(10, 10 + {objects}):
        storage.store(p64(number), z64, data, '', t)
tid = commit(write)
"""

PACK = """
import time
storage.pack(time.time())
"""


def measure(title, server, console, source):
    """Run `source`; print what it cost; its value."""
    start = time.perf_counter()
    with Peak(server.pid) as theirs, Peak(console.process.pid) as ours:
        value = console.run(source)
    print(f'{title:<44} server {theirs.bytes / MB:+8.1f} MB   client {ours.bytes / MB:+8.1f} MB'
          f'   {time.perf_counter() - start:6.1f} s', flush=True)
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--blob-mb', type=int, default=1024)
    parser.add_argument('--objects', type=int, default=200_000)
    parser.add_argument('--directory')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.directory) as parent:
        run(Path(parent), options)


def run(parent, options):
    served = {'kind': 'file', 'path': str(parent / 'Data.fs'), 'blob_dir': str(parent / 'blobs')}
    with ServerProcess([served], python=sys.executable) as server, Console() as up, Console() as down:
        for number, console in enumerate((up, down)):
            console.connect(server.address, blob_dir=str(parent / f'cache-{number}'))
            console.run(PREPARE)
        path = str(parent / 'blob')
        up.run(UPLOAD.format(path=path, megabytes=options.blob_mb))
        tid = measure(f'a blob of {options.blob_mb} MB goes up', server, up, SEND.format(path=path))
        measure('... and down', server, down, DOWNLOAD.format(tid=tid))
        measure(f'a transaction of {options.objects:,} objects', server, up,
                MANY.format(objects=options.objects))
        before = resident_bytes(server.pid)
        for number in range(10):
            measure(f'pack {number + 1}', server, up, PACK)
        print(f'{"after ten packs":<44} server {(resident_bytes(server.pid) - before) / MB:+8.1f} MB')
        for console in (up, down):
            console.forget()


if __name__ == '__main__':
    main()
