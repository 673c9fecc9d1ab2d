"""Looks into the CD collection by XML-RPC: with plain values, and without ZODB.

What it shows: an interface for those who do not have the classes, or Python.  The server loads the objects
and sends strings and numbers.

How to start it: with the address that serve.py shows.

    python examples/cds/xmlrpc_client.py http://localhost:8000 find blue
    python examples/cds/xmlrpc_client.py http://localhost:8000 add Somebody Something 2000

What to look at: the first finds what zeo_client.py finds, the second is refused with the server's words.
"""
from __future__ import annotations

import argparse
import sys
from xmlrpc.client import Error, Fault, ServerProxy

import cdcommands


def ask(server, given):
    """Do what the command line says."""
    if given.command == 'find':
        for cd in server.find(given.text):
            print('{artist}: {title} ({year})'.format(**cd))
    else:
        server.add(given.artist, given.title, given.year)


def main():
    parser = argparse.ArgumentParser(prog='xmlrpc_client.py', description='Look for CDs by XML-RPC.')
    parser.add_argument('url', metavar='URL', help='where the server is, http://HOST:PORT')
    cdcommands.add_commands(parser)
    given = parser.parse_args()
    try:
        with ServerProxy(given.url) as server:
            ask(server, given)
    except Fault as fault:
        sys.exit(f'xmlrpc_client.py: refused: {fault.faultString}')
    except (OSError, Error) as error:
        sys.exit(f'xmlrpc_client.py: {given.url}: {error}')


if __name__ == '__main__':
    main()
