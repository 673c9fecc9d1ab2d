"""Servers in front of one PostgreSQL, figure by figure beside what is aimed at (docs/scale-out.md).

    python -m benchmarks.scaleout [--seconds S] [WHAT ...]

    told     until a client of the other server is told, after the committer's reply
    unsaid   the same of commits of which nobody notifies the servers
    commit   one client's commits beside those of RelStorage in the client: time, processor time of all
    miss     loads that the server does not have: processor time of the server says how many it can answer
    hit      loads that it has, beside those of a server of a file
    killed   until all clients have got an answer again after a server was killed, or PostgreSQL restarted
    hang     loads of others while a vote waits in the database

On a machine that does nothing else.  Servers, clients and PostgreSQL are processes of their own on it.
"""
from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import tempfile
import threading
import time

from transaction.interfaces import TransientError
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, p64

from benchmarks.arena import Arena, Client, Databases, Sizes
from benchmarks.child.meters import cpu_of
from benchmarks.dataset import Dataset
from benchmarks.postgres import Cluster
from benchmarks.runner import ground
from benchmarks.sides import RELSTORAGE, known, ours
from benchmarks.workloads.others import quantiles
from zeo_clone.ClientStorage import ClientStorage

MEMORY = '/dev/shm'
POLL_INTERVAL_S = 0.1
ROUNDS = 5
THREADS = 8
CLIENTS = 4
PATIENCE_S = 60
#: The oid of which somebody else has the lock.
HUNG = 1


class Line:
    """A figure, and what it should be at most, or at least."""

    def __init__(self, what, value, unit, most=None, least=None):
        aim, is_met = '', True
        if most is not None:
            aim, is_met = f'at most {most:,g}', value <= most
        elif least is not None:
            aim, is_met = f'at least {least:,g}', value >= least
        self.text = f'{what:62}{value:12,.3f} {unit:8}{aim:18}{"" if is_met else "missed"}'.rstrip()


class Measuring:
    """Everything that all figures share."""

    def __init__(self, sizes, dataset, databases, cluster, parent):
        self.sizes = sizes
        self.cluster = cluster
        self._dataset = dataset
        self._databases = databases
        self._parent = parent

    def arena(self, name, **options):
        """Of one of the sides of `benchmarks.sides`, or of ours over a file."""
        side = ours() if name == 'file' else known(name)
        side = side._replace(options={**side.options, **options})
        return Arena(side, self.sizes, self._dataset, self._databases, self._parent)

    def direct(self, dsn):
        """A client process that opens the RelStorage itself, with what this interpreter has."""
        options = {'kind': RELSTORAGE, 'objects': self.sizes.objects, 'seconds': self.sizes.seconds,
                   'record_bytes': self.sizes.record_bytes, 'directory': self._parent, 'dsn': dsn}
        return Client(ours()._replace(kind=RELSTORAGE), options)


# ---- until others know ------------------------------------------------------------------------------

def delays(writer, listener):
    """Milliseconds, sorted, from the end of each commit of `writer` until `listener` was told; 0: before."""
    listener.call('gather', count=1)
    listener.call('note_tids')
    found = writer.call('commits_noted')
    listener.call('told_of', tid=found['tids'][-1])
    noted = listener.call('noted')
    listener.call('disperse')
    return sorted(1e3 * max(0.0, noted[tid] - end)
                  for tid, end in zip(found['tids'], found['ends'], strict=True))


def told(measuring):
    with measuring.arena('two-servers') as arena:
        took = delays(*arena.clients(2))
    yield Line("other server's client told after the commit, p50", took[len(took) // 2], 'ms', most=1)
    yield Line('the same, p99', took[len(took) * 99 // 100], 'ms', most=10)


def unsaid(measuring):
    with measuring.arena('one-server', poll_interval_s=POLL_INTERVAL_S) as arena:
        writer, listener = measuring.direct(arena.dsn), arena.client()
        try:
            took = delays(writer, listener)
        finally:
            writer.stop()
    yield Line(f'told without NOTIFY, poll-interval {1e3 * POLL_INTERVAL_S:g} ms, p99',
               took[len(took) * 99 // 100], 'ms', most=1e3 * POLL_INTERVAL_S + 10)


# ---- what it costs ----------------------------------------------------------------------------------

def commits(measuring, name):
    """Of one round: median of a commit, and processor time of all for one, both in ms."""
    with measuring.arena(name) as arena:
        client = arena.client()
        client.call('open')
        pids = {client.pid, measuring.cluster.pid, *arena.server_pids}
        before = sum(map(cpu_of, pids))
        took = client.call('commits_apart', number=0)['took']
        spent = sum(map(cpu_of, pids)) - before
        client.call('close')
    return 1e3 * sorted(took)[len(took) // 2], 1e3 * spent / len(took)


def commit(measuring):
    found = {name: [] for name in ('relstorage', 'one-server')}
    for _ in range(ROUNDS):
        for name, rounds in found.items():
            rounds.append(commits(measuring, name))
    (direct, direct_cpu), (served, served_cpu) = (
        [statistics.median(values) for values in zip(*rounds, strict=True)] for rounds in found.values())
    yield Line('commit, RelStorage in the client, p50', direct, 'ms')
    yield Line('commit, client and server, p50', served, 'ms')
    yield Line('added by the server', served - direct, 'ms', most=1.5)
    yield Line('processor time of all, RelStorage in the client', direct_cpu, 'ms')
    yield Line('processor time of all, client and server', served_cpu, 'ms')
    yield Line('added by the server', served_cpu - direct_cpu, 'ms', most=1.2)


def miss(measuring):
    with measuring.arena('no-server-cache') as arena:
        found = arena.client().call('cold', threads=THREADS)
    yield Line(f'loads that the server has not, {THREADS} threads', found['rate'], 'loads/s')
    yield Line("the server's processor time", found['server_us'], 'us', most=100)
    yield Line('as many can it answer with one processor', 1e6 / found['server_us'], 'loads/s', least=10_000)


def hit(measuring):
    found = {name: [] for name in ('file', 'one-server')}
    for _ in range(ROUNDS):
        for name, rounds in found.items():
            with measuring.arena(name) as arena:
                client = arena.client()
                client.call('cold', threads=THREADS)  # so that the server has them
                rounds.append(client.call('cold', threads=THREADS))
    file, served = (
        {key: statistics.median(one[key] for one in rounds) for key in ('rate', 'server_us')}
        for rounds in found.values())
    yield Line('loads from a file', file['rate'], 'loads/s')
    yield Line("loads from the server's cache", served['rate'], 'loads/s', least=file['rate'])
    yield Line("a file's server's processor time", file['server_us'], 'us')
    yield Line("a database's", served['server_us'], 'us', most=file['server_us'])


# ---- when something fails -----------------------------------------------------------------------------

class Asking:
    """Clients of all servers that ask for something, again and again.  A context manager."""

    def __init__(self, addresses):
        self._stop = threading.Event()
        orders = [addresses[number % len(addresses):] + addresses[:number % len(addresses)]
                  for number in range(CLIENTS)]
        self._storages = [ClientStorage(order, wait_timeout=PATIENCE_S) for order in orders]
        self.answered = [0.0] * CLIENTS  # when the question was asked that was answered last
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.seconds_since(time.monotonic())
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for storage in self._storages:
            storage.close()

    def _ask(self, number):
        storage, oid = self._storages[number], p64(100 + number)
        while not self._stop.is_set():
            asked = time.monotonic()
            transaction = TransactionMetaData()
            try:
                data, serial, _ = storage.loadBefore(oid, maxtid)
                storage.tpc_begin(transaction)
                storage.store(oid, serial, data, '', transaction)
                storage.tpc_vote(transaction)
                storage.tpc_finish(transaction)
                self.answered[number] = asked
            except TransientError:
                storage.tpc_abort(transaction)

    def seconds_since(self, moment):
        """Until each has committed something that it began later than `moment`."""
        while any(answered <= moment for answered in self.answered):
            time.sleep(0.002)
        return time.monotonic() - moment


def killed(measuring):
    with measuring.arena('two-servers') as arena, Asking(arena.addresses) as asking:
        took = []
        for _ in range(ROUNDS):
            measuring.cluster.crash()
            measuring.cluster.start()
            took.append(asking.seconds_since(time.monotonic()))
        yield Line(f'{CLIENTS} clients have committed after PostgreSQL is back', max(took), 's', most=2)
        os.kill(arena.server_pids[0], signal.SIGKILL)
        passed = asking.seconds_since(time.monotonic())
        yield Line('all have committed after a server was killed', passed, 's', most=2)


def hang(measuring):
    import psycopg2
    with measuring.arena('one-server', server_cache_size=0) as arena:
        loader = arena.client()
        loader.call('open')
        storage = ClientStorage(arena.addresses[0], wait_timeout=PATIENCE_S)
        data, serial = storage.loadBefore(p64(HUNG), maxtid)[:2]
        blocker = psycopg2.connect(arena.dsn)
        with blocker.cursor() as cursor:
            cursor.execute('SELECT pg_advisory_xact_lock(%s)', (HUNG,))  # as RelStorage does
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        storage.store(p64(HUNG), serial, data, '', transaction)
        voting = threading.Thread(target=storage.tpc_vote, args=(transaction,))
        voting.start()
        took = loader.call('some_latencies')
        waited = voting.is_alive()
        blocker.close()
        voting.join()
        storage.tpc_finish(transaction)
        storage.close()
        loader.call('close')
    if not waited:
        raise RuntimeError('the vote did not wait')
    p99_ms = quantiles(took)['p99_ms']
    yield Line(f'loads of others while a vote hangs, {len(took):,} of them, p99', p99_ms, 'ms', most=5)


WHAT = {function.__name__: function for function in (told, unsaid, commit, miss, hit, killed, hang)}


def main(args=None):
    parser = argparse.ArgumentParser(prog='python -m benchmarks.scaleout',
                                     description=__doc__.partition('\n\n')[0])
    parser.add_argument('what', nargs='*', metavar='WHAT', choices=[[], *WHAT],
                        help=f'default all of {", ".join(WHAT)}')
    parser.add_argument('--seconds', type=float, default=5.0, metavar='S', help='for each, default 5')
    parser.add_argument('--objects', type=int, default=10_000, metavar='N', help='default 10000')
    options = parser.parse_args(args)
    sizes = Sizes(options.objects, seconds=options.seconds)
    directory = MEMORY if os.path.isdir(MEMORY) else tempfile.gettempdir()
    with ground(directory) as place, Cluster(directory) as cluster:
        dataset = Dataset(place, sizes.objects, sizes.record_bytes)
        databases = Databases(cluster, ours()._replace(kind=RELSTORAGE), sizes, dataset, place)
        measuring = Measuring(sizes, dataset, databases, cluster, place)
        for name in options.what or WHAT:
            for line in WHAT[name](measuring):
                print(f'{name:8}{line.text}', flush=True)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # PostgreSQL ends as well
    sys.exit(main())
