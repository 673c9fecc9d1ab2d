"""Blobs, starts, memory, and how long single loads take while others work hard."""
from __future__ import annotations

from benchmarks.arena import together
from tests.support.memory import resident_bytes

IDLE = 200
FIRST = 5  # clients that take what memory is taken once; as few as can be, since others reuse theirs


def blob_up(arena):
    return arena.client().call('blob_up', megabytes=arena.sizes.blob_mb)


def blob_down(arena):
    return arena.client().call('blob_down', megabytes=arena.sizes.blob_mb)


def large_cache(arena):
    return arena.client().call('large_cache', objects=arena.sizes.cache_objects)


def connect(arena):
    return arena.client().call('connect')


def idle_clients(arena):
    """KB of the server per client that is connected and does nothing; threads of the process of them all."""
    client = arena.client()
    client.call('gather', count=FIRST)
    client.call('disperse')
    before = resident_bytes(arena.server_pid)
    count = IDLE * arena.sizes.crowd
    threads = client.call('gather', count=count)
    taken = resident_bytes(arena.server_pid) - before
    client.call('disperse')
    return {'kb': taken / 1024 / count, 'threads': threads}


def latency_beside_commits(arena):
    return latency(arena, pack=False)


def latency_beside_pack(arena):
    return latency(arena, pack=True)


def latency(arena, pack):
    """Milliseconds of the loads that overlap a large commit, or a pack, of another client."""
    loader, worker = arena.clients(2)
    worker.send('burden', pack=pack)
    worker.receive()  # it begins
    loads = loader.call('latencies')
    worker.send('rest')
    intervals = worker.receive()
    worker.receive()
    return quantiles(overlapping(loads, intervals))


def latency_beside_a_committer(arena):
    """Milliseconds of loads while another client commits one object after another."""
    loader, committer = arena.clients(2)
    together([loader, committer], 'open')
    committer.send('commit_on')
    committer.receive()  # it begins
    loads = loader.call('some_latencies')
    committer.send('rest')
    committer.receive()
    committer.receive()
    together([loader, committer], 'close')
    return quantiles(loads)


def latency_alone(arena):
    client = arena.client()
    client.call('open')
    loads = client.call('some_latencies')
    client.call('close')
    return quantiles(loads)


def latency_beside_invalidations(arena):
    return flooded(arena, 'invalidations')


def latency_beside_misses(arena):
    return flooded(arena, 'misses')


def latency_beside_undo_logs(arena):
    arena.client().call('grow')
    return flooded(arena, 'undo')


def flooded(arena, kind):
    """Milliseconds of loads while another client sends requests of that kind as fast as it can."""
    loader, flooder = arena.clients(2)
    loader.call('open')
    flooder.send('flood', kind=kind)
    flooder.receive()  # it begins
    loads = loader.call('some_latencies')
    flooder.send('rest')
    flooder.receive()
    flooder.receive()
    loader.call('close')
    return quantiles(loads)


def quantiles(loads):
    took = sorted(loads)
    if not took:
        return dict.fromkeys(['p50_ms', 'p99_ms', 'max_ms'])
    return {'p50_ms': 1e3 * took[len(took) // 2], 'p99_ms': 1e3 * took[len(took) * 99 // 100],
            'max_ms': 1e3 * took[-1]}


def overlapping(loads, intervals):
    """Seconds of each load ``(start, seconds)`` while one of the intervals ran; both lists are in order."""
    intervals = iter([*intervals, (float('inf'), float('inf'))])
    begin, end = next(intervals)
    for start, seconds in loads:
        while end < start:
            begin, end = next(intervals)
        if start + seconds >= begin:
            yield seconds
