"""A WSGI application whose module opens the database, and uses it, before its server forks.

    ZEO_ADDRESS=127.0.0.1:9100 gunicorn --preload -w 2 tests.connections.preloaded:application

A request reads all objects anew, of which each knows its own number, counts itself, and answers with the
process id and what it has seen: numbers of wrong objects, and the count.
"""
from __future__ import annotations

import contextlib
import json
import os

import ZODB
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid

from zeo_clone.ClientStorage import ClientStorage

OBJECTS = 100

host, port = os.environ['ZEO_ADDRESS'].split(':')
db = ZODB.DB(ClientStorage((host, int(port)), wait_timeout=20, cache_size=30_000))  # they do not all fit
with db.transaction() as connection:
    root = connection.root()
    root['count'] = PersistentMapping({'n': 0})
    for number in range(OBJECTS):
        root[number] = PersistentMapping({'me': f'<<{number}>>' + 'x' * 500})
with db.transaction() as connection:
    OIDS = [connection.root()[number]._p_oid for number in range(OBJECTS)]


def count():
    """Count one request."""
    with db.transaction() as connection:
        counter = connection.root()['count']
        counter['n'] += 1
        return counter['n']


def until_it_fits(function):
    """What `function` returns, after as many conflicts as there are."""
    result = None
    while result is None:
        with contextlib.suppress(ConflictError):
            result = function()
    return result


def application(environ, start_response):
    wrong = [number for number, oid in enumerate(OIDS)
             if f'<<{number}>>'.encode() not in db.storage.loadBefore(oid, maxtid)[0]]
    body = json.dumps([os.getpid(), wrong, until_it_fits(count)]).encode()
    start_response('200 OK', [('Content-Type', 'application/json'), ('Content-Length', str(len(body)))])
    return [body]
