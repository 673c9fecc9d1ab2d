"""How the workers do: the page ``/stats``, and a worker's own numbers as JSON at ``/stats.json``.

Any worker can show all: it asks the others over HTTP, as the browser asks it.
"""
from __future__ import annotations

import json
import logging
import os
import urllib.request

from forum import pages

PATIENCE_S = 2  # for the answer of another worker
SERVER_KEYS = ('connections', 'loads', 'stores', 'commits', 'conflicts', 'conflicts_resolved')


class Stats:
    """The numbers of one worker.  Used by all its threads."""

    def __init__(self, storage, transactions, url, urls):
        self._storage = storage
        self._transactions = transactions
        self._url = url
        self._urls = urls

    def own(self):
        """What this worker did so far; bottle makes JSON of it.

        A hit is an object that was read from the client cache, a miss one for which the server was asked.
        Most objects are needed more often than that: they stay in memory, and nothing is read at all.
        """
        cache = self._storage.cache_stats()
        return {'url': self._url, 'urls': self._urls, 'pid': os.getpid(), 'pages': self._transactions.pages,
                'hits': cache['hits'], 'misses': cache['misses'],
                'objects': cache['objects'], 'used': cache['used']}

    def page(self):
        workers = [self.own() if url == self._url else other(url) for url in self._urls]
        return pages.page('stats', workers=workers, server=self.server())

    def server(self):
        """What the server says of itself; empty while it is away."""
        if not self._storage.is_connected():
            return {}
        status = self._storage.server_status()
        return {key: status[key] for key in SERVER_KEYS}


def ask(url):
    """The numbers of the worker at `url`.  Raises OSError if it does not answer."""
    with urllib.request.urlopen(f'{url}/stats.json', timeout=PATIENCE_S) as answer:
        return json.load(answer)


def other(url):
    """The same; zeros if it does not answer."""
    try:
        return ask(url)
    except OSError as error:
        logging.warning('no answer from %s: %s', url, error)
        return {'url': url, 'pid': 'no answer', 'pages': 0, 'hits': 0, 'misses': 0, 'objects': 0, 'used': 0}
