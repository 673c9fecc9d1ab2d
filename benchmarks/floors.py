"""What the machine and Python leave nobody: bare programs that send the same bytes and do nothing else.

    python -m benchmarks.floors [--seconds N] [--directory PATH]

Each line is a floor of workloads of ``python -m benchmarks``: no client and server in Python can be faster on
the same machine.  No code of the package takes part.  Linux only.
"""
from __future__ import annotations

import argparse
import multiprocessing
import os
import select
import socket
import tempfile
import time

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64, z64

#: Bytes of a loadBefore and of its reply with a record of 1,000 bytes, lengths included.
REQUEST, REPLY = 51, 1044
#: Of a commit of one object: its calls up to the vote, a reply, tpc_finish, an invalidation.
STORES, ANSWER, FINISH, NOTICE = 1200, 60, 60, 66
#: Clients that are told of a commit, and the processes in which they are.
LISTENERS, PROCESSES = 30, 4
#: The same where commits come as fast as they can.
STORMS = 100, 200
#: As the protocol's blobs are sent: bytes of a blob, of a piece, and of a read.
BLOB, PIECE, READ = 64 << 20, 59_000, 512 << 10
OBJECTS = 1000

fork = multiprocessing.get_context('fork')


def listening():
    """A socket on a free port."""
    return socket.create_server(('127.0.0.1', 0), backlog=max(STORMS))


def connect(listener):
    sock = socket.create_connection(listener.getsockname())
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def accept(listener):
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def take(sock, size, flags=0):
    """Exactly `size` bytes, thrown away; False at the end.  With MSG_DONTWAIT it looks again and again."""
    while size:
        try:
            data = sock.recv(size, flags)
        except BlockingIOError:
            os.sched_yield()
            continue
        if not data:
            return False
        size -= len(data)
    return True


def median(values):
    return sorted(values)[len(values) // 2]


class Peers:
    """Processes that end with the block."""

    def __init__(self):
        self._all = []

    def start(self, function, *args):
        process = fork.Process(target=function, args=args, daemon=True)
        process.start()
        self._all.append(process)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for process in self._all:
            process.kill()
            process.join()


# ---- a load -------------------------------------------------------------------------------------

def exchanges(seconds, flags):
    """Requests with their replies per second; `flags` as of `take`."""
    def serve():
        sock = accept(listener)
        while take(sock, REQUEST, flags):
            sock.sendall(bytes(REPLY))

    with listening() as listener, Peers() as peers:
        peers.start(serve)
        with connect(listener) as sock:
            count, took, start = 0, 0.0, time.monotonic()
            while not count or took < seconds:
                sock.sendall(bytes(REQUEST))
                take(sock, REPLY, flags)
                count += 1
                took = time.monotonic() - start
    return count / took


# ---- a commit of which others are told ------------------------------------------------------------

def told(count, directory, measure):
    """What `measure` makes of a connection that commits and pipes, one of each process of `count` clients."""
    def serve(place):
        served = FileStorage(os.path.join(place, 'Data.fs'))
        crowd = [accept(listener) for _ in range(count)]
        ready.set()
        writer, serial = accept(listener), z64
        while take(writer, STORES):
            meta = TransactionMetaData()
            served.tpc_begin(meta)
            served.store(z64, serial, bytes(1000), '', meta)
            served.tpc_vote(meta)
            writer.sendall(bytes(ANSWER))
            take(writer, FINISH)
            serial = served.tpc_finish(meta)
            for sock in crowd:
                sock.send(bytes(NOTICE))
            writer.sendall(bytes(ANSWER))

    def listen(count, pipe):
        poll, crowd = select.epoll(), {}
        for _ in range(count):
            sock = connect(listener)
            crowd[sock.fileno()] = sock
            poll.register(sock, select.EPOLLIN)
        told = 0
        while True:
            for number, _ in poll.poll():
                crowd[number].recv(READ)
                told += 1
                if told % count == 0:
                    pipe.send(time.monotonic())

    ready = fork.Event()
    pipes = [fork.Pipe() for _ in range(PROCESSES)]
    with tempfile.TemporaryDirectory(dir=directory) as place, listening() as listener, Peers() as peers:
        peers.start(serve, place)
        for number, (_, theirs) in enumerate(pipes):
            peers.start(listen, count // PROCESSES + (number < count % PROCESSES), theirs)
        ready.wait()
        with connect(listener) as writer:
            return measure(writer, [ours for ours, _ in pipes])


def commit(writer):
    """Of one object."""
    writer.sendall(bytes(STORES))
    take(writer, ANSWER)
    writer.sendall(bytes(FINISH))
    take(writer, ANSWER)


def fan_out(seconds, directory):
    """Seconds from the first byte of a commit until the last client was told, a median."""
    def measure(writer, pipes):
        took, end = [], time.monotonic() + seconds
        while not took or time.monotonic() < end:
            start = time.monotonic()
            commit(writer)
            took.append(max(pipe.recv() for pipe in pipes) - start)
        return median(took)

    return told(LISTENERS, directory, measure)


def storm(seconds, directory, count):
    """Commits per second of one client, of which `count` are told, of each by itself before its answer."""
    def measure(writer, pipes):
        commits, took, start = 0, 0.0, time.monotonic()
        while not commits or took < seconds:
            commit(writer)
            commits += 1
            took = time.monotonic() - start
            for pipe in pipes:
                while pipe.poll():
                    pipe.recv()
        return commits / took

    return told(count, directory, measure)


# ---- a blob -------------------------------------------------------------------------------------

def copies(seconds, directory):
    """Bytes per second from a file of one process through a socket into a new file of another."""
    def serve():
        sock = accept(listener)
        while True:
            with tempfile.TemporaryFile(dir=directory) as file:
                left = BLOB
                while left:
                    data = sock.recv(min(READ, left))
                    if not data:
                        return
                    file.write(data)
                    left -= len(data)
            sock.sendall(bytes(1))

    with listening() as listener, Peers() as peers, tempfile.TemporaryFile(dir=directory) as file:
        peers.start(serve)
        file.write(os.urandom(1 << 20) * (BLOB >> 20))
        took, end = [], time.monotonic() + seconds
        with connect(listener) as sock:
            while not took or time.monotonic() < end:
                file.seek(0)
                start = time.monotonic()
                while piece := file.read(PIECE):
                    sock.sendall(piece)
                take(sock, 1)
                took.append(time.monotonic() - start)
    return BLOB / median(took)


# ---- the storage --------------------------------------------------------------------------------

def storage(seconds, directory):
    """Of FileStorage: seconds of a loadBefore, and per object of a commit of `OBJECTS`."""
    with tempfile.TemporaryDirectory(dir=directory) as place:
        served = FileStorage(os.path.join(place, 'Data.fs'))
        oids, serial, loads, commits = [p64(number) for number in range(OBJECTS)], z64, [], []
        end = time.monotonic() + seconds
        while not loads or time.monotonic() < end:
            meta = TransactionMetaData()
            start = time.monotonic()
            served.tpc_begin(meta)
            for oid in oids:
                served.store(oid, serial, bytes(1000), '', meta)
            served.tpc_vote(meta)
            serial = served.tpc_finish(meta)
            middle = time.monotonic()
            for oid in oids:
                served.loadBefore(oid, maxtid)
            commits.append((middle - start) / OBJECTS)
            loads.append((time.monotonic() - middle) / OBJECTS)
        served.close()
    return median(loads), median(commits)


def main(given=None):
    """Measure and print."""
    options = argparse.ArgumentParser(prog='python -m benchmarks.floors', description=__doc__.split('\n')[0])
    options.add_argument('--seconds', type=float, default=2.0, help='of each measurement')
    options.add_argument('--directory', default='/dev/shm', help='for files (default: %(default)s)')
    chosen = options.parse_args(given)
    seconds, directory = chosen.seconds, chosen.directory
    looking, sleeping = exchanges(seconds, socket.MSG_DONTWAIT), exchanges(seconds, 0)
    print(f'a request and its reply, both looking for input   {1e6 / looking:9.1f} us, {looking:,.0f}/s')
    print(f'the same, both sleeping until it comes            {1e6 / sleeping:9.1f} us, {sleeping:,.0f}/s')
    until_told = fan_out(seconds, directory)
    print(f'a commit until {LISTENERS} clients are told                {1e3 * until_told:9.2f} ms')
    for count in STORMS:
        rate = storm(seconds, directory, count)
        print(f'commits, each told to {count} clients by itself        {rate:9,.0f} txn/s')
    print(f'a blob from file to file                          {copies(seconds, directory) / 1e6:9.0f} MB/s')
    load, commit = storage(seconds, directory)
    print(f'FileStorage: loadBefore                           {1e6 * load:9.1f} us')
    print(f'FileStorage: commit of {OBJECTS} objects, each          {1e6 * commit:9.1f} us')


if __name__ == '__main__':
    main()
