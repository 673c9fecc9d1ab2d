"""Clients that count what was acknowledged, and a look at whether all of it is there, once."""
from __future__ import annotations

import threading
import time

import transaction
from transaction.interfaces import TransientError
from ZODB import DB

from zeo_clone.ClientStorage import ClientStorage

PATIENCE_S = 120  # only what hangs meets it
#: So much is counted before any of it is told to who waits: a client has begun, and not only once.
BEGUN = 5


class Counting:
    """Clients of all `addresses`, of which each adds one to its counter again and again.  A context manager.

    Each of `orders` is a client's order of the addresses.  At the end of the ``with`` they end.
    """

    def __init__(self, orders, storage_id='main', **options):
        self._options = {'storage': storage_id, 'server_sync': True, 'wait_timeout': PATIENCE_S, **options}
        self._stop = threading.Event()
        self._enough = threading.Semaphore(0)
        #: What was acknowledged, by client, and what went wrong that nobody may try again.
        self.counted, self.failed = {}, []
        self._threads = [threading.Thread(target=self._count_up, args=(order, f'client {number}'))
                         for number, order in enumerate(orders)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait(self, count=8, timeout_s=PATIENCE_S):
        """Until so many more commits were acknowledged; False if that takes longer than so many seconds."""
        until = time.monotonic() + timeout_s
        return all(self._enough.acquire(timeout=max(0.0, until - time.monotonic())) for _ in range(count))

    def wait_for_all(self, count=3):
        """Until each client has got so many more."""
        before = dict(self.counted)
        while len(self.counted) < len(self._threads) or any(
                value < before.get(name, 0) + count for name, value in self.counted.items()):
            assert self.wait(1), (before, self.counted)
            assert not self.failed, self.failed

    def check(self, address):
        """After the end: is each acknowledged commit there, once?"""
        assert not self.failed, self.failed
        database = DB(ClientStorage(address, **self._options))
        try:
            with database.transaction() as connection:
                assert {name: connection.root()[name] for name in self.counted} == self.counted
        finally:
            database.close()

    def _count_up(self, addresses, name):
        try:
            database = DB(ClientStorage(list(addresses), **self._options))
            try:
                while not self._stop.is_set():
                    self._add_one(database, name)
            finally:
                database.close()
        except BaseException as error:
            self.failed.append(error)
            raise

    def _add_one(self, database, name):
        manager = transaction.TransactionManager()
        try:
            manager.begin()
            connection = database.open(manager)
            try:
                root = connection.root()
                root[name] = root.get(name, 0) + 1
                manager.commit()
                self.counted[name] = self.counted.get(name, 0) + 1
                if self.counted[name] >= BEGUN:
                    self._enough.release()
            finally:
                manager.abort()
                connection.close()
        except TransientError:
            pass
