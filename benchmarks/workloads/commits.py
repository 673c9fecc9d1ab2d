"""Commits: of one process, of many at once, and until everybody knows."""
from __future__ import annotations

import time

from benchmarks.arena import together

WRITERS = 8
FEW, MANY = 30, 200
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


def until_told(arena, count):
    """Milliseconds from `tpc_begin` until the last of `count` clients was told, a median of many commits."""
    writer, *listeners = arena.clients(1 + LISTENING_PROCESSES)
    total = count * arena.sizes.crowd
    for number, listener in enumerate(listeners):
        share = total // len(listeners) + (number < total % len(listeners))
        listener.call('gather', count=share)
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
