"""What the parts of a cold load, a small commit and a notice cost by themselves, printed.

    python -m benchmarks.parts [--directory PATH]

Microseconds, in a loop, without sockets: all code and data are in the processor's caches.  In the real one
each part costs up to twice as much.  System calls are missing here; they take the processor time of
``python -m benchmarks cold commit-1`` less all this.
"""
from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from contextlib import closing

from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import maxtid, p64

from tests.server.desk import ClockRuntime, Desk
from zeo_clone.cache import ClientCache
from zeo_clone.client.effects import Effects
from zeo_clone.client.notices import check_revision
from zeo_clone.zrpc import messages
from zeo_clone.zrpc.connection import Agreed, ClientCore
from zeo_clone.zrpc.frames import frame

RECORD = bytes(1000)
TID = p64(5)
TIMES = 5000


def cost(step, times=TIMES, rounds=5):
    """Microseconds of one ``step(number)``, the best of some rounds; numbers never come twice."""
    numbers = itertools.count(1000)
    found = []
    for _ in range(rounds):
        some = list(itertools.islice(numbers, times))
        start = time.perf_counter()
        for number in some:
            step(number)
        found.append((time.perf_counter() - start) / times * 1e6)
    return min(found)


def opened_core():
    core = ClientCore()
    assert list(core.receive_data(frame(b'Z5'))) == [Agreed('Z5')]
    core.registered()
    return core


def client_load(cache):
    """Of a client that loads what is not in its cache, which is full."""
    core = opened_core()
    for number in range(2000):
        cache.store(p64(1 << 40 | number), TID, None, RECORD)
    oids = [p64(number) for number in range(10 * TIMES)]
    reply = frame(messages.encode_loaded(7, (RECORD, TID, None)))

    def receive(number):
        core._pending[7] = None
        for _ in core.receive_data(reply):
            pass

    def encode(number):
        core.send_load(oids[number], maxtid, None)
        core._pending.clear()

    return [('miss in the cache', cost(lambda number: cache.loadBefore(oids[number], maxtid))),
            ('encode the call', cost(encode)),
            ('take the frame apart, decode, find the call', cost(receive)),
            ('check the reply', cost(lambda number: check_revision((RECORD, TID, None)))),
            ('store it', cost(lambda number: cache.store(oids[number], TID, None, RECORD)))]


def client_notice(cache):
    """Of a client that is told of another one's commit."""
    core = opened_core()
    effects = Effects(cache)
    notice = frame(messages.encode_oneway('invalidateTransaction', (TID, [p64(1)])))

    def receive(piece):
        for _ in core.receive_data(piece):
            pass

    return [('take the frame apart, decode', cost(lambda number: receive(notice))),
            ('the same of ten in one piece, each', cost(lambda number: receive(10 * notice)) / 10),
            ('cache, last tid', cost(lambda number: effects.invalidate(p64(number), [p64(1)])))]


def client_commit(cache):
    """Of a client that has committed 1,000 objects, for each: at once, and later."""
    effects = Effects(cache)
    records = [(p64(number), RECORD) for number in range(1000)]
    kept, ended = [], []
    for number in range(51):
        start = time.perf_counter()
        effects.finish(p64(number + 1), records, None)
        middle = time.perf_counter()
        cache.write_late()
        ended.append(middle - start)
        kept.append(time.perf_counter() - middle)
    return [('end the old revision', sorted(ended)[25] * 1e3),
            ('keep the new one, while the server works', sorted(kept)[25] * 1e3)]


def fill(storage, objects=1000):
    """The serial of so many objects."""
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for number in range(objects):
        storage.store(p64(number), bytes(8), RECORD, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


class Runtime(ClockRuntime):
    """With the clock by which FileStorage makes its tids."""

    def time(self):
        return time.time()


def server_load(storage):
    """Of a server that answers a load."""
    fill(storage)
    client = Desk({'1': storage}, runtime=Runtime()).connect()
    core, session, out = client.channel.core, client.session, client.channel.out
    request = frame(messages.encode_load(7, p64(1), maxtid))
    oids = [p64(number % 1000) for number in range(10 * TIMES)]

    def receive(number):
        for _ in core.receive_data(request):
            pass

    def all_of_it(number):
        for event in core.receive_data(request):
            session.handle_event(event)
        out.clear()

    decode, encode = cost(receive), cost(lambda number: core.send_loaded(7, (RECORD, TID, None)))
    load, same = cost(lambda number: storage.loadBefore(oids[number], maxtid)), \
        cost(lambda number: storage.loadBefore(oids[1], maxtid))
    return [('take the frame apart, decode', decode), ("FileStorage's loadBefore", load),
            ('encode the reply', encode),
            ('session', cost(all_of_it) - decode - encode - same)]


def server_commit(storage):
    """Of a server in a commit of one object."""
    serials = [fill(storage, 1)]
    client = Desk({'1': storage}, runtime=Runtime()).connect()
    core, session, loop, out = client.channel.core, client.session, client.desk.loop, client.channel.out
    begin = frame(messages.encode_oneway('tpc_begin', (7, b'', b'', {}, None, ' ')))
    vote, finish = (frame(messages.encode_call(7, name, (7,))) for name in ('vote', 'tpc_finish'))

    def store():
        return frame(messages.encode_store(p64(0), serials[-1], RECORD, 7))

    def alone(number):
        meta = TransactionMetaData()
        storage.tpc_begin(meta)
        storage.store(p64(0), serials[-1], RECORD, '', meta)
        storage.tpc_vote(meta)
        serials.append(storage.tpc_finish(meta))

    def receive(number):
        for _ in core.receive_data(begin + some_store + vote + finish):
            pass

    def answer(number):
        core.send_reply(7, [])
        core.send_oneway('info', ({'length': 1, 'size': 1},))
        core.send_reply(7, TID)

    def all_of_it(number):
        for part in begin + store() + vote, finish:
            for event in core.receive_data(part):
                session.handle_event(event)
            loop.turn()
        serials.append(storage.lastTransaction())
        out.clear()

    some_store = store()
    bare, decode, encode = cost(alone, 1000), cost(receive, 1000), cost(answer, 1000)
    last = storage.lastTransaction()
    whole = cost(all_of_it, 1000)
    assert storage.lastTransaction() > last, 'the commits failed'
    return [('FileStorage alone', bare), ('decode four messages', decode), ('encode three answers', encode),
            ('session, phases, queue, history, outcomes', whole - bare - decode - encode)]


def main(given=None):
    """Measure and print."""
    options = argparse.ArgumentParser(prog='python -m benchmarks.parts', description=__doc__.split('\n')[0])
    options.add_argument('--directory', default='/dev/shm', help='for the storage (default: %(default)s)')
    chosen = options.parse_args(given)

    def with_storage(measure):
        with tempfile.TemporaryDirectory(dir=chosen.directory) as place:
            with closing(FileStorage(os.path.join(place, 'Data.fs'))) as storage:
                return measure(storage)

    def with_cache(measure, size):
        with closing(ClientCache(None, size)) as cache:
            return measure(cache)

    for title, parts in (
            ('a cold load, client', with_cache(client_load, 1 << 20)),
            ('a cold load, server', with_storage(server_load)),
            ('a commit of one object, server', with_storage(server_commit)),
            ('a commit of 1,000 objects, its end on the client, each', with_cache(client_commit, 20 << 20)),
            ('a notice of a commit, client', with_cache(client_notice, 1 << 20))):
        print(f'{title}:')
        for name, microseconds in parts:
            print(f'  {name:45} {microseconds:6.2f} us')


if __name__ == '__main__':
    main()
