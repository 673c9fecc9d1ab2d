"""Serves a CD collection to the world, read-only, in two ways: to ZEO clients and by XML-RPC.

What it shows: the owner's server keeps the file and takes changes; the world does not get at it.  This
program stands in front of it as two read-only clients.  One of them is served on by a ZEO server in
read-only mode (a storage that has a server of its own: fan-out), the other answers questions by XML-RPC.
Both answer most of them from their caches, so that the world costs the owner's server next to nothing.

How to start it: the owner's server at an address that only the owner reaches, something to see, and this.

    zeo-clone serve -a ./owner.sock -f cds.fs
    python examples/cds/fill.py ./owner.sock examples/cds/cds.csv
    python examples/cds/serve.py ./owner.sock --zeo localhost:9101 --http localhost:8000

What to look at: both clients find the same CDs, and a CD that the owner adds is there at once.  Both are
refused when they add one; at the owner's address the same command of zeo_client.py succeeds.  While the
owner's server is stopped the world still finds what was asked for before.

    python examples/cds/zeo_client.py localhost:9101 find blue
    python examples/cds/xmlrpc_client.py http://localhost:8000 find blue
    python examples/cds/xmlrpc_client.py http://localhost:8000 add Somebody Something 2000
"""
from __future__ import annotations

import argparse
import contextlib
import socketserver
import sys
from xmlrpc.client import Fault
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import cdmodel
from ZODB.POSException import ReadOnlyError

import zeo_clone
from zeo_clone.addresses import format_address
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.StorageServer import StorageServer

#: Number of the fault that refuses a change.
READ_ONLY = 403
#: `find` by XML-RPC returns so many CDs at most.
MOST_FOUND = 100


# ---- for ZEO clients --------------------------------------------------------------------------------

class PublicStorage(ClientStorage):
    """The owner's storage, without what the world may not do even though it changes no object."""

    def pack(self, *args, **keywords):
        raise ReadOnlyError('only the owner packs this database')


def serve_zeo(owner, address):
    """Start a read-only server, in a thread of its own; closed by its ``close()``."""
    storage = PublicStorage(owner, read_only=True, wait_timeout=5)
    server = StorageServer(address, {'1': storage}, read_only=True)
    server.start_thread()
    return server


# ---- by XML-RPC -------------------------------------------------------------------------------------

class Questions:
    """What can be asked by XML-RPC.  Called in many threads; each question has a connection of its own."""

    def __init__(self, db):
        self._db = db

    def find(self, text=''):
        """At most MOST_FOUND CDs with `text` in artist or title: ``[{artist, title, year}, ...]``."""
        with self._db.transaction() as connection:
            return [{'artist': cd.artist, 'title': cd.title, 'year': cd.year}
                    for cd in cdmodel.find(connection, text)[:MOST_FOUND]]

    def add(self, artist, title, year):
        raise Fault(READ_ONLY, 'this collection is read-only; only its owner adds to it')


class Handler(SimpleXMLRPCRequestHandler):
    """Ends connections that are silent for so many seconds."""

    timeout = 10


class HTTPServer(socketserver.ThreadingMixIn, SimpleXMLRPCServer):
    """A thread for each connection, so that a slow client delays only itself."""

    daemon_threads = True


def serve_http(db, address):
    """Make an XML-RPC server; it works while its ``serve_forever()`` does."""
    host, port = address
    server = HTTPServer((host or '', port), Handler, logRequests=False)
    server.register_instance(Questions(db))
    return server


# ---- the program ------------------------------------------------------------------------------------

def serve(owner, zeo_address, http_address):
    """Serve until Ctrl-C."""
    with contextlib.ExitStack() as stack:
        db = zeo_clone.DB(owner, read_only=True, wait_timeout=5)
        stack.callback(db.close)
        zeo = serve_zeo(owner, zeo_address)
        stack.callback(zeo.close)
        http = stack.enter_context(serve_http(db, http_address))
        print('for ZEO clients:', format_address(zeo.addr), flush=True)
        print('by XML-RPC: http://{}:{}'.format(*http.server_address), flush=True)
        http.serve_forever()


def host_and_port(text):
    """An address that HTTP can have."""
    found = cdmodel.address(text)
    if isinstance(found, str):
        raise argparse.ArgumentTypeError(f'{text!r} is a path; XML-RPC needs HOST:PORT')
    return found


def main():
    parser = argparse.ArgumentParser(prog='serve.py', description='Serve CDs to the world, read-only.')
    parser.add_argument('owner', metavar='OWNER', type=cdmodel.address, help="address of the owner's server")
    parser.add_argument('--zeo', metavar='ADDRESS', type=cdmodel.address, default=('localhost', 9101),
                        help='where ZEO clients find us (localhost:9101)')
    parser.add_argument('--http', metavar='HOST:PORT', type=host_and_port, default=('localhost', 8000),
                        help='where XML-RPC clients find us (localhost:8000)')
    given = parser.parse_args()
    try:
        serve(given.owner, given.zeo, given.http)
    except KeyboardInterrupt:
        print()
    except ReadOnlyError:
        sys.exit("serve.py: the owner's database is empty, and we may not change that; run fill.py first")
    except (ClientDisconnected, OSError) as error:
        sys.exit(f'serve.py: {error}')


if __name__ == '__main__':
    main()
