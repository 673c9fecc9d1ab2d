"""What Prometheus is told: names, texts and types of all metrics.

In: a `Report`.  Out: a content type and bytes, made by the library prometheus_client, which also escapes what
clients call themselves.  Runs in the thread of the monitor's loop.
"""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import z64

from zeo_clone.monitor.reporter import Report, Status
from zeo_clone.thresholds import STALLED_S

#: Key of the status: what it counts.
COUNTERS = {
    'loads': 'Records that clients have asked for.',
    'stores': 'Records that clients have sent.',
    'commits': 'Transactions committed.',
    'aborts': 'Transactions aborted.',
    'conflicts': 'Conflicts found in votes.',
    'conflicts_resolved': 'Conflicts resolved by the server.',
    'invalidations': 'Objects that clients were told to forget.',
    'verifications': 'Client caches that were to be brought up to date.',
    'verifications_failed': 'Client caches that were too old for that and were dropped.',
    'timeouts': 'Clients that held the commit lock for too long and were disconnected.',
    'silent': 'Clients that were not heard of any more and were disconnected.',
    'sent': 'Bytes sent to clients.',
    'received': 'Bytes received from clients.',
}
#: Key of the status: name and text of the gauge.
GAUGES = {
    'connections': ('connections', 'Clients connected.'),
    'active_txns': ('active_transactions', 'Transactions under way.'),
    'waiting': ('waiting_transactions', 'Transactions that wait for the commit lock.'),
    'uptime': ('uptime_seconds', 'Time since the server began to serve the storage.'),
}
#: Key of the status of a storage in a database: name and text of the gauge ...
DATABASE = {
    'away': ('database_away_seconds', 'For how long the database has been away; 0 while it is there.'),
    'heard': ('database_heard_seconds', 'Since when the database has not told what is new.'),
    'waiting': ('database_waiting_loads', 'Loads that wait for the database.'),
    'cache_bytes': ('database_cache_bytes', "Bytes in the server's cache of records."),
    'cache_objects': ('database_cache_objects', "Objects in the server's cache of records."),
}
#: ... or what it counts.
DATABASE_COUNTERS = {
    'cache_hits': "Loads that the server's cache of records has answered.",
    'cache_misses': 'Loads for which the database was asked.',
}
#: The same of a storage with a server above it.
RELAY = {
    'away': ('relay_away_seconds', 'For how long the server above has been away; 0 while it is there.'),
    'waiting': ('relay_waiting_objects', 'Objects that are waited for from the server above.'),
    'cache_bytes': ('relay_cache_bytes', "Bytes in the relay's cache."),
    'cache_objects': ('relay_cache_objects', "Objects in the relay's cache."),
    'cache_size': ('relay_cache_size_bytes', "Bytes for which there is room in the relay's cache."),
}
RELAY_COUNTERS = {
    'hits': "Loads that the relay's cache has answered.",
    'misses': 'Loads that had to wait for the server above.',
}
#: Key of the status that is the same for all storages: name and text of the gauge ...
SERVER_GAUGES = {
    'all_connections': ('all_connections', 'Connections, registered or not.'),
    'max_connections': ('max_connections', 'Connections for which there is room.'),
    'strangers': ('strangers', 'Connections that have not registered yet.'),
    'max_strangers': ('max_strangers', 'Of these, for how many there is room.'),
    'memory': ('waiting_bytes', 'Bytes that wait for clients, or came from them and are not done with.'),
    'tls_expires': ('tls_expires_seconds', "Until the server's certificate ends."),
    'memory_limit': ('waiting_bytes_limit', 'How many of these there may be (memory-limit).'),
}
#: ... or what it counts.
SERVER_COUNTERS = {
    'handshake_timeouts': 'Connections that did not register in time and were closed.',
    'turned_away': 'Connections that were refused because there was no room.',
    'memory_closed': 'Connections that were closed because more than memory-limit waited.',
}
#: What counts bytes.
IN_BYTES = ('sent', 'received')
#: Key in the status' sizes: name and text of the gauge.
SIZES = {
    'data': ('database_bytes', 'Size of the database, without blobs.'),
    'blobs': ('blob_bytes', 'Size of all blobs, as counted now and then.'),
    'blob_files': ('blob_files', 'How many files of blobs there are.'),
    'pack': ('pack_bytes', 'What a pack that is under way has written.'),
}
#: Key in the description of a disk, likewise.
DISKS = {
    'free': ('disk_free_bytes', 'Free room on the disk that holds these.'),
    'size': ('disk_size_bytes', 'Size of that disk.'),
}
#: Key in the status' latency: text of the histogram.
HISTOGRAMS = {
    'load': "The storage's part of reading a record.",
    'lock_wait': 'From a vote until the commit lock is held.',
    'vote': 'From there until the storage has voted.',
    'finish': 'tpc_finish of the storage, and telling the other clients.',
}
#: Key of a client's description: name and text of the gauge; clients with the same label are added up.
TRAFFIC = {
    'sent': ('client_sent_bytes', 'Bytes sent to clients that are connected, by label.'),
    'received': ('client_received_bytes', 'Bytes received from clients that are connected, by label.'),
    'queued': ('client_queued_bytes', 'Bytes that wait for clients to read them, by label.'),
}


class Exposition:
    """Makes the text."""

    def __init__(self) -> None:
        self._process: Any = ProcessCollector(registry=None)  # processor, memory, descriptors

    def expose(self, report: Report, accept: str) -> tuple[str, bytes]:
        """Content type and text, in the form that the header Accept asks for."""
        registry = CollectorRegistry()
        registry.register(_Collected(report))
        registry.register(self._process)
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)


class _Collected:
    """A collector, as the library wants it."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """All metrics of ours."""
        storages = self._report.storages
        lag = GaugeMetricFamily('zeo_loop_lag_seconds', "Until the server's loop took up this question.")
        lag.add_metric([], self._report.lag_s)
        yield lag
        yield from _server(next(iter(storages.values()), {}))
        yield from _counters(storages)
        yield from _conflict_classes(storages)
        yield from _sizes(storages)
        yield from _others(storages, 'database', DATABASE, DATABASE_COUNTERS)
        yield from _others(storages, 'relay', RELAY, RELAY_COUNTERS)
        yield from _gauges(storages)
        yield from _clients(storages)
        yield from _histograms(storages)


def _server(status: dict[str, Any]) -> Iterator[Metric]:
    build = GaugeMetricFamily('zeo_build_info', 'Which program this is.', labels=['version', 'python'])
    build.add_metric([str(status.get(key)) for key in ('version', 'python')], 1)
    yield build
    for key, (short, words) in SERVER_GAUGES.items():
        if status.get(key) is not None:
            yield GaugeMetricFamily(f'zeo_{short}', words, value=status[key])
    for key, words in SERVER_COUNTERS.items():
        if key in status:
            yield CounterMetricFamily(f'zeo_{key}', words, value=status[key])


def _counters(storages: Status) -> Iterator[Metric]:
    for key, words in COUNTERS.items():
        unit = '_bytes' if key in IN_BYTES else ''
        counter = CounterMetricFamily(f'zeo_{key}{unit}', words, labels=['storage'])
        for name, status in storages.items():
            counter.add_metric([name], status[key])
        yield counter


def _conflict_classes(storages: Status) -> Iterator[Metric]:
    counter = CounterMetricFamily('zeo_conflicts_by_class', 'Conflicts that were not resolved by the server.',
                                  labels=['storage', 'class'])
    for name, status in storages.items():
        for kind, count in status['conflict_classes'].items():
            counter.add_metric([name, kind], count)
    yield counter


def _gauges(storages: Status) -> Iterator[Metric]:
    for key, (short, words) in GAUGES.items():
        yield _gauge(short, words, [(name, status[key]) for name, status in storages.items()])
    items = list(storages.items())
    yield _gauge('storage_failed', '1 if the storage has failed, else 0.',
                 [(name, bool(status['failed'])) for name, status in items])
    yield _gauge('storage_packing', '1 while the storage is packed, else 0.',
                 [(name, status['packing'] is not None) for name, status in items])
    yield _gauge('storage_packing_seconds', 'For how long the storage has been packed; 0 while it is not.',
                 [(name, status['packing'] or 0) for name, status in items])
    yield _gauge('commit_lock_held_seconds', 'For how long the commit lock is held; 0 while it is free.',
                 [(name, (status['lock_holder'] or {}).get('seconds', 0)) for name, status in items])
    stalled = [(name, sum(client['stalled'] >= STALLED_S for client in status['clients']))
               for name, status in items]
    yield _gauge('stalled_clients', 'Clients that do not read what waits for them.', stalled)
    yield _gauge('last_transaction_timestamp_seconds', 'Time of the last transaction; 0 if there is none.',
                 [(name, _tid_time(bytes.fromhex(status['last-transaction']))) for name, status in items])


def _sizes(storages: Status) -> Iterator[Metric]:
    measured = [(name, status['sizes']) for name, status in storages.items() if status['sizes'] is not None]
    for key, (short, words) in SIZES.items():
        yield _gauge(short, words, [(name, sizes[key]) for name, sizes in measured if sizes[key] is not None])
    for key, (short, words) in DISKS.items():
        gauge = GaugeMetricFamily(f'zeo_{short}', words, labels=['storage', 'holds'])
        for name, sizes in measured:
            for disk in sizes['disks']:
                gauge.add_metric([name, disk['holds']], disk[key])
        yield gauge


def _others(storages: Status, kind: str, gauges: dict[str, tuple[str, str]], counters: dict[str, str]
            ) -> Iterator[Metric]:
    """Of storages that are of a `kind` of their own; nothing if there are none."""
    items = [(name, status[kind]) for name, status in storages.items() if kind in status]
    if not items:
        return
    for key, (short, words) in gauges.items():
        yield _gauge(short, words, [(name, float(other[key] or 0)) for name, other in items])
    for key, words in counters.items():
        counter = CounterMetricFamily(f'zeo_{kind}_{key}', words, labels=['storage'])
        for name, other in items:
            counter.add_metric([name], other[key])
        yield counter


def _gauge(short: str, words: str, values: Iterable[tuple[str, float]]) -> Metric:
    gauge = GaugeMetricFamily(f'zeo_{short}', words, labels=['storage'])
    for name, value in values:
        gauge.add_metric([name], value)
    return gauge


def _tid_time(tid: bytes) -> float:
    return 0.0 if tid == z64 else TimeStamp(tid).timeTime()


def _clients(storages: Status) -> Iterator[Metric]:
    for key, (short, words) in TRAFFIC.items():
        gauge = GaugeMetricFamily(f'zeo_{short}', words, labels=['storage', 'label'])
        for name, status in storages.items():
            total: Counter[str] = Counter()
            for client in status['clients']:
                total[client['label']] += client[key]
            for label, value in total.items():
                gauge.add_metric([name, label], value)
        yield gauge


def _histograms(storages: Status) -> Iterator[Metric]:
    for key, words in HISTOGRAMS.items():
        family = HistogramMetricFamily(f'zeo_{key}_seconds', words, labels=['storage'])
        for name, status in storages.items():
            if 'latency' in status:
                latency = status['latency']
                bounds = [*map(floatToGoString, latency['bounds']), '+Inf']
                counts = accumulate(latency[key]['counts'])
                family.add_metric([name], list(zip(bounds, counts, strict=True)), latency[key]['sum'])
        yield family
