"""The owner's tool: adds the CDs of a file to the collection.

What it shows: one transaction for many objects, repeated as a whole if somebody else was faster.

How to start it: with the address of the owner's server, the only one that takes changes (see serve.py).

    python examples/cds/fill.py ./owner.sock examples/cds/cds.csv

What to look at: the second time it adds nothing.  Add a line to the file and run it again while a client
of the public server is looking.
"""
from __future__ import annotations

import argparse
import csv
import sys

import cdmodel
import transaction

import zeo_clone
from zeo_clone.Exceptions import ClientDisconnected


def read(path):
    """The lines of a CSV file with the columns artist, title and year."""
    with open(path, newline='', encoding='utf-8') as file:
        return [(row['artist'], row['title'], int(row['year'])) for row in csv.DictReader(file)]


def fill(connection, rows):
    """Add all CDs, or none; the number of those that were not there."""
    for attempt in transaction.manager.attempts():
        with attempt:
            added = sum(cdmodel.add(connection, *row) for row in rows)
    return added


def main():
    parser = argparse.ArgumentParser(prog='fill.py', description='Add the CDs of a file.')
    parser.add_argument('owner', metavar='OWNER', type=cdmodel.address, help="address of the owner's server")
    parser.add_argument('file', metavar='FILE', help='CSV file with the columns artist, title, year')
    given = parser.parse_args()
    try:
        rows = read(given.file)
    except (OSError, KeyError, ValueError, TypeError) as error:
        sys.exit(f'fill.py: {given.file} cannot be used: {type(error).__name__}: {error}')
    try:
        connection = zeo_clone.connection(given.owner, wait_timeout=5)
    except ClientDisconnected as error:
        sys.exit(f'fill.py: {error}')
    print(fill(connection, rows), 'CDs added')
    connection.close()


if __name__ == '__main__':
    main()
