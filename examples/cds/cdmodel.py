"""What is in the CD database: the classes and functions that every program here imports.

The database remembers an object's class by its module and name, ``cdmodel.CD``.  Whoever loads a CD must be
able to import that; whoever only passes records on, like the servers, need not.
"""
from __future__ import annotations

import argparse

from BTrees.OOBTree import OOBTree
from persistent import Persistent

from zeo_clone.addresses import parse_address


class CD(Persistent):
    """One CD of the collection."""

    def __init__(self, artist, title, year):
        self.artist = artist
        self.title = title
        self.year = year

    def __str__(self):
        return f'{self.artist}: {self.title} ({self.year})'


def add(connection, artist, title, year):
    """Add a CD, unless it is there; true if it was added.  The caller commits."""
    root = connection.root()
    if 'cds' not in root:
        root['cds'] = OOBTree()  # {(artist, title): CD}, sorted
    return root['cds'].insert((artist, title), CD(artist, title, year)) == 1


def find(connection, text):
    """The CDs with `text` in artist or title, in upper or lower case, sorted."""
    cds = connection.root().get('cds', {})
    return [cd for cd in cds.values() if text.casefold() in f'{cd.artist}: {cd.title}'.casefold()]


def address(text):
    """An address on a command line."""
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
