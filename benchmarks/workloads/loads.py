"""Loads: what a client gets per second, and what they cost."""
from __future__ import annotations

from benchmarks.arena import together

THREADS, PROCESSES = 8, 4


def cold_one(arena):
    found = arena.client().call('cold', threads=1)
    return {**found, 'server_us': found['server_us'] if arena.server_pid else None}


def cold_threads(arena):
    return {'rate': arena.client().call('cold', threads=THREADS * arena.sizes.crowd)['rate']}


def cold_processes(arena):
    """All load everything at once; from when the first begins until the last is done."""
    clients = arena.clients(PROCESSES * arena.sizes.crowd)
    loads, elapsed = 0, 0.0
    while elapsed < arena.sizes.seconds:
        together(clients, 'open')
        passes = together(clients, 'cold_pass')
        together(clients, 'close')
        loads += sum(found['loads'] for found in passes)
        elapsed += max(found['end'] for found in passes) - min(found['start'] for found in passes)
    return {'rate': loads / elapsed}


def warm(arena):
    return arena.client().call('warm')


def prefetch(arena):
    return arena.client().call('prefetch')


def objects_cold(arena):
    return arena.client().call('objects', warm=False)


def objects_warm(arena):
    return arena.client().call('objects', warm=True)
