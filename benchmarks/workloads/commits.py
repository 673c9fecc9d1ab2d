"""Commits: of one process, of many at once, and until everybody knows."""
from __future__ import annotations

import time

from benchmarks.arena import together

WRITERS = 8
FEW, MANY = 30, 200
LISTENERS = 100
LISTENING_PROCESSES = 4


def commit_one(arena):
    return arena.client().call('commits', objects=1)


def commit_many(arena):
    return arena.client().call('commits', objects=arena.sizes.transaction_objects)


def commit_apart(arena):
    """Each process commits to an object of its own: all together per second, and what the unluckiest wait."""
    return apart(arena, WRITERS * arena.sizes.crowd)


def commit_far_apart(arena):
    return apart(arena, arena.sizes.writers)


def commit_all(arena):
    """Whoever is told of a commit has one of its own under way."""
    return apart(arena, arena.sizes.all_writers)


def apart(arena, writers):
    clients = arena.clients(writers)
    together(clients, 'open')
    for number, client in enumerate(clients):
        client.send('commits_apart', number=number)
    found = [client.receive() for client in clients]
    together(clients, 'close')
    elapsed = max(one['end'] for one in found) - min(one['start'] for one in found)
    return {'rate': sum(len(one['took']) for one in found) / elapsed,
            'slowest_ms': 1e3 * max(sum(one['took']) / len(one['took']) for one in found),
            'longest_ms': 1e3 * max(max(one['took']) for one in found)}


def fan_out_few(arena):
    return {'ms': until_told(arena, FEW)}


def fan_out_many(arena):
    return {'ms': until_told(arena, MANY)}


def storm(arena):
    """One client commits as fast as it can; each commit is told to all who listen."""
    return commits_told_to(arena, LISTENERS * arena.sizes.crowd)


def large_storm(arena):
    return commits_told_to(arena, 2 * LISTENERS * arena.sizes.crowd)


def commits_told_to(arena, count):
    """Commits per second, and how long after a commit's end the last was told of it (0: before), a median."""
    writer, listeners = gather(arena, count)
    together(listeners, 'note_tids')
    found = writer.call('commits_noted')
    together(listeners, 'told_of', tid=found['tids'][-1])
    told = [listener.call('noted') for listener in listeners]
    together(listeners, 'disperse')
    delays = sorted(max(0.0, max(one[tid] for one in told) - end)
                    for tid, end in zip(found['tids'], found['ends'], strict=True))
    return {'rate': found['rate'], 'p50_ms': 1e3 * delays[len(delays) // 2], 'max_ms': 1e3 * delays[-1]}


def gather(arena, count):
    """A writer, and processes in which together `count` clients listen."""
    writer, *listeners = arena.clients(1 + LISTENING_PROCESSES)
    for number, listener in enumerate(listeners):
        share = count // len(listeners) + (number < count % len(listeners))
        listener.call('gather', count=share)
    return writer, listeners


def until_told(arena, count):
    """Milliseconds from `tpc_begin` until the last of `count` clients was told, a median of many commits."""
    writer, listeners = gather(arena, count * arena.sizes.crowd)
    writer.call('open')
    took = []
    end = time.monotonic() + arena.sizes.seconds
    while not took or time.monotonic() < end:
        for listener in listeners:
            listener.send('told')
        start = writer.call('commit_once')['start']
        took.append(max(listener.receive() for listener in listeners) - start)
    writer.call('close')
    together(listeners, 'disperse')
    return 1e3 * sorted(took)[len(took) // 2]
