"""One process of the forum: a web server for browsers, and a client of the database server.

It has one ClientStorage with one cache, and several threads, each of which takes a connection of its own
from the DB's pool for each request.  A thread that only reads what was read before asks nobody: the server
tells the client by itself what others have changed.
"""
from __future__ import annotations

import inspect
import logging
import signal
import sys
import threading
from contextlib import closing

import bottle
import transaction
import waitress
from transaction.interfaces import TransientError
from ZODB.POSException import ConflictError

import zeo_clone
from forum import pages
from forum.stats import Stats

THREADS = 4
TRIES = 20           # of a transaction that meets conflicts; one of those that conflict always wins
WAIT_TIMEOUT_S = 5   # for a server that is away


def serve(address, listener, url, urls):
    """Serve the forum in the database at `address` until SIGTERM comes.

    `listener` is a listening socket, `url` its URL, `urls` those of all workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for forum.run, which then stops us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    logging.getLogger('waitress.queue').setLevel(logging.ERROR)  # a visitor may wait for a thread
    with listener, closing(open_database(address, label=f'forum {url}')) as db:
        transactions = Transactions(db)
        pages.app.install(transactions)
        stats = Stats(db.storage, transactions, url, urls)
        pages.app.get('/stats', callback=stats.page)
        pages.app.get('/stats.json', callback=stats.own)
        serve_pages(listener)


def open_database(address, label):
    """A DB on a ClientStorage; the server's log shows the label."""
    return zeo_clone.DB(address, wait_timeout=WAIT_TIMEOUT_S, client_label=label)


def serve_pages(listener):
    """Answer browsers, until SIGTERM comes."""
    connections = {}  # {file descriptor: what waitress has open there}
    server = waitress.create_server(pages.app, connections, sockets=[listener], threads=THREADS)
    try:
        server.run()
    finally:
        for connection in list(connections.values()):
            connection.close()


class Transactions:
    """A plug-in of bottle: pages with an argument `forum` are made in a transaction, which it commits.

    Used by all threads of the worker.
    """

    name = 'transactions'
    api = 2  # of bottle's plug-ins

    def __init__(self, db):
        self._db = db
        self._lock = threading.Lock()  # protects pages
        self.pages = 0

    def apply(self, callback, route):
        """Called by bottle for each page; returns what to call instead of it."""
        if 'forum' not in inspect.signature(route.callback).parameters:
            return callback

        def in_transaction(**arguments):
            if route.method == 'POST' and not self._db.storage.is_connected():
                raise bottle.HTTPError(503, 'The database server is away, please try again in a moment.')
            with self._lock:
                self.pages += 1
            try:
                return self.run(lambda forum: callback(forum, **arguments))
            except TransientError as error:
                raise bottle.HTTPError(503, f'Please try again in a moment: {error}') from error

        return in_transaction

    def run(self, function):
        """Call `function` with the forum and commit; the result.

        If another process changed the same objects at the same time, the commit raises ConflictError, and
        all is done again with the objects as they are now.
        """
        manager = transaction.TransactionManager()
        connection = self._db.open(manager)
        try:
            for left in reversed(range(TRIES)):
                try:
                    with manager:  # commits at its end, aborts if there is an exception
                        return function(connection.root()['forum'])
                except ConflictError:  # noqa: PERF203
                    if not left:
                        raise
        finally:
            connection.close()
