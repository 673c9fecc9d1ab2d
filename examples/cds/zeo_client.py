"""Looks into the CD collection as a ZEO client: with the objects themselves.

What it shows: to a ZEO client the database of a read-only server is like any other, with its cache and its
news of changes, up to the moment at which it wants to commit one.

How to start it: with the address of the public server (see serve.py).

    python examples/cds/zeo_client.py localhost:9101 find blue
    python examples/cds/zeo_client.py localhost:9101 add Somebody Something 2000

What to look at: the second command is refused, and at the owner's address it is not.  `find` leaves out
nothing and needs `cdmodel.CD`; a client by XML-RPC gets plain values, as many as the server likes.
"""
from __future__ import annotations

import argparse
import sys

import cdcommands
import cdmodel
import transaction
from ZODB.POSException import ReadOnlyError

import zeo_clone
from zeo_clone.Exceptions import ClientDisconnected


def find(connection, text):
    for cd in cdmodel.find(connection, text):
        print(cd)


def add(connection, artist, title, year):
    for attempt in transaction.manager.attempts():
        with attempt:
            added = cdmodel.add(connection, artist, title, year)
    print('added' if added else 'it is there already')


def main():
    parser = argparse.ArgumentParser(prog='zeo_client.py', description='Look for CDs with ZEO.')
    parser.add_argument('address', metavar='ADDRESS', type=cdmodel.address, help='where the server is')
    cdcommands.add_commands(parser)
    given = parser.parse_args()
    # Who wants to write says so when it connects, and is content with reading if the server refuses.
    options = {'read_only': True} if given.command == 'find' else {'read_only_fallback': True}
    try:
        connection = zeo_clone.connection(given.address, wait_timeout=5, **options)
    except ClientDisconnected as error:
        sys.exit(f'zeo_client.py: {error}')
    try:
        if given.command == 'find':
            find(connection, given.text)
        else:
            add(connection, given.artist, given.title, given.year)
    except ReadOnlyError:
        sys.exit('zeo_client.py: refused: this server is read-only; only the owner adds CDs')
    finally:
        connection.close()


if __name__ == '__main__':
    main()
