"""Every workload and every figure: names, units, which way is better, aims, how costs may grow.

Nothing is measured here.  An aim is a ratio to ZEO 6.2 with uvloop of the same run, 1 being "not slower"; a
limit is a figure of our own that should not be exceeded.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.sides import CLIENT, DATABASE, FILE, RELSTORAGE
from benchmarks.workloads import commits, loads, others

EVERYBODY = (CLIENT, DATABASE, RELSTORAGE, FILE)
SERVED = (CLIENT, DATABASE, RELSTORAGE)
TOLD = (CLIENT, DATABASE)
ZEO_ONLY = (CLIENT,)

OBJECTS, CROWD, SIZE = 'objects', 'clients', 'object size'


class Figure(NamedTuple):
    """One line of the table.

    `grows` has, by axis, whether the cost of one unit may become tenfold there and still be called linear:
    that of an operation grows with the object's size, but not with the number of objects.
    """

    key: str
    title: str
    unit: str
    more_is_better: bool = False
    aim: float | None = 1.0
    grows: tuple[str, ...] = (SIZE,)
    limit: float | None = None


class Workload(NamedTuple):
    """Something to measure: the `kinds` of sides that have it, and along which `axes` scaling makes sense."""

    name: str
    measure: Callable[[Any], dict[str, float | None]]
    figures: tuple[Figure, ...]
    kinds: tuple[str, ...] = SERVED
    axes: tuple[str, ...] = (OBJECTS, SIZE)
    unix: bool = False
    blobs: bool = False


def rate(title, unit, aim=1.0):
    return Figure('rate', title, unit, True, aim)


def delays(situation, aim):
    return (Figure('p50_ms', f'load {situation}, p50', 'ms', aim=1.0),
            Figure('p99_ms', f'load {situation}, p99', 'ms', aim=aim),
            Figure('max_ms', f'load {situation}, longest', 'ms', aim=None))


def delays_beside_a_flood(of_what):
    return (Figure('p50_ms', f'load beside a flood of {of_what}, p50', 'ms'),
            Figure('p99_ms', f'load beside a flood of {of_what}, p99', 'ms', limit=10),
            Figure('max_ms', f'load beside a flood of {of_what}, longest', 'ms', aim=None))


def told_of_a_storm(count, aim):
    return (Figure('rate', f'commit of 1 object, {count} listen', 'txn/s', True, aim),
            Figure('p50_ms', 'until the last is told, median', 'ms'),
            Figure('max_ms', 'the longest', 'ms', aim=None))


WORKLOADS = (
    Workload('cold', loads.cold_one, (
        rate('cold load, 1 thread', 'loads/s', 4.0),
        Figure('client_us', 'its processor time, client', 'us/load'),
        Figure('server_us', 'its processor time, server', 'us/load')), EVERYBODY),
    Workload('cold-unix', loads.cold_one, (
        rate('cold load, 1 thread, unix socket', 'loads/s', 4.0),), unix=True),
    Workload('cold-threads', loads.cold_threads, (
        rate('cold load, 8 threads', 'loads/s', 4.0),), EVERYBODY, (OBJECTS, SIZE, CROWD)),
    Workload('cold-processes', loads.cold_processes, (
        rate('cold load, 4 processes', 'loads/s', 2.5),), axes=(OBJECTS, SIZE, CROWD)),
    Workload('warm', loads.warm, (rate('warm load', 'loads/s', 2.2),)),
    Workload('prefetch', loads.prefetch, (rate('prefetch', 'objects/s', 4.0),), ZEO_ONLY),
    Workload('objects-cold', loads.objects_cold, (
        rate('ZODB: cold read of a tree', 'objects/s', 3.0),), EVERYBODY, (OBJECTS,)),
    Workload('objects-warm', loads.objects_warm, (
        rate('ZODB: warm read of a tree', 'objects/s'),), axes=(OBJECTS,)),
    Workload('commit-1', commits.commit_one, (rate('commit of 1 object', 'txn/s', 4.0),), EVERYBODY),
    Workload('commit-1000', commits.commit_many, (
        rate('commit of 1,000 objects', 'objects/s', 4.0),), EVERYBODY),
    Workload('commit-apart', commits.commit_apart, (
        Figure('rate', 'commit of 1 object, 8 processes', 'txn/s', True, grows=(SIZE, CROWD)),  # all are told
        Figure('slowest_ms', 'the slowest process, mean', 'ms', grows=(SIZE, CROWD)),
        Figure('longest_ms', 'the longest commit', 'ms', aim=None, grows=(SIZE, CROWD))),
        axes=(OBJECTS, SIZE, CROWD)),
    Workload('commit-far-apart', commits.commit_far_apart, (
        Figure('rate', 'commit of 1 object, 32 processes', 'txn/s', True),
        Figure('slowest_ms', 'the slowest process, mean', 'ms'),
        Figure('longest_ms', 'the longest commit', 'ms', aim=None)), axes=()),
    Workload('commit-all', commits.commit_all, (
        Figure('rate', 'commit of 1 object, 80 processes', 'txn/s', True, 2.5),
        Figure('slowest_ms', 'the slowest process, mean', 'ms'),
        Figure('longest_ms', 'the longest commit', 'ms', aim=None)), ZEO_ONLY, axes=()),
    Workload('storm-100', commits.storm, told_of_a_storm(100, 7.0), ZEO_ONLY, axes=()),
    Workload('storm-200', commits.large_storm, told_of_a_storm(200, 9.0), ZEO_ONLY, axes=()),
    Workload('fan-out-30', commits.fan_out_few, (
        Figure('ms', 'commit until 30 clients are told', 'ms', aim=3.0, grows=(SIZE, CROWD)),),
        TOLD, (CROWD,)),
    Workload('fan-out-200', commits.fan_out_many, (
        Figure('ms', 'commit until 200 clients are told', 'ms', aim=3.0, grows=(SIZE, CROWD)),),
        TOLD, (CROWD,)),
    Workload('blob-up', others.blob_up, (
        Figure('rate', 'blob up', 'MB/s', True, grows=()),), axes=(SIZE,), blobs=True),
    Workload('blob-down', others.blob_down, (
        Figure('rate', 'blob down', 'MB/s', True, grows=()),), axes=(SIZE,), blobs=True),
    Workload('cache', others.large_cache, (
        Figure('ms', 'open a large cache', 'ms', aim=3.0, grows=(OBJECTS,)),
        Figure('fill', 'fill it', 'stores/s', True, 1.5),
        Figure('bytes', "client's memory per cached object", 'bytes', aim=None, limit=16)),
        ZEO_ONLY, (OBJECTS,)),
    Workload('connect', others.connect, (Figure('ms', 'connect and load', 'ms'),), axes=(OBJECTS,)),
    Workload('idle', others.idle_clients, (
        Figure('kb', "server's memory per idle client", 'KB', aim=None, limit=10),
        Figure('threads', 'threads of a process with 200 storages', '', aim=None, grows=(), limit=2)),
        ZEO_ONLY, (CROWD,)),
    Workload('latency-commits', others.latency_beside_commits, delays('beside large commits', 2.0)),
    Workload('latency-committer', others.latency_beside_a_committer, delays('beside a committer', 1.0),
             axes=()),
    Workload('latency-pack', others.latency_beside_pack, delays('beside a pack', 2.0)),
    Workload('latency-alone', others.latency_alone, delays('alone', 1.0)),
    Workload('flood-invalidations', others.latency_beside_invalidations,
             delays_beside_a_flood('getInvalidations'), ZEO_ONLY),
    Workload('flood-misses', others.latency_beside_misses,
             delays_beside_a_flood('loads of nothing'), ZEO_ONLY),
    Workload('flood-undo', others.latency_beside_undo_logs,
             delays_beside_a_flood('undo logs'), ZEO_ONLY),
)


def choose(names):
    """The workloads of these names, all if there are none.  Raises LookupError."""
    if not names:
        return WORKLOADS
    by_name = {workload.name: workload for workload in WORKLOADS}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise LookupError(f'unknown workload {", ".join(unknown)}: there are {", ".join(by_name)}')
    return tuple(by_name[name] for name in names)
