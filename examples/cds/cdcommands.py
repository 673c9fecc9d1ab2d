"""The commands that both clients have, find and add.  Imports nothing of ZODB: xmlrpc_client.py has none."""
from __future__ import annotations


def add_commands(parser):
    """Let `parser` understand ``find [TEXT]`` and ``add ARTIST TITLE YEAR``."""
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    finder = commands.add_parser('find', help='show the CDs with TEXT in artist or title')
    finder.add_argument('text', metavar='TEXT', nargs='?', default='')
    adder = commands.add_parser('add', help='add a CD; the servers for the world refuse it')
    adder.add_argument('artist', metavar='ARTIST')
    adder.add_argument('title', metavar='TITLE')
    adder.add_argument('year', metavar='YEAR', type=int)
