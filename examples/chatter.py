"""A chat in terminals: the application from which most people learn ZEO.

What it shows: programs share an object, the ChatSession of a channel, as if it were in the memory of each.
There is no code for the network in here.  Two who speak at the same moment conflict, and the loser's
transaction is simply repeated; how far each program has read is kept in a volatile attribute.

How to start it: a server, and then the chat in two or more terminals, on as many machines as you like.

    zeo-clone serve -a localhost:9100 -f chat.fs
    python examples/chatter.py localhost:9100 general Ada
    python examples/chatter.py localhost:9100 general Bob

What to look at: what Ada types appears at Bob's at once.  Stop the server and start it again: both say so
and go on.  Ctrl-C or Ctrl-D leaves.  docs/tutorial.md explains every part of this file.
"""
from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import threading
import time

import transaction
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from transaction.interfaces import TransientError
from ZODB.POSException import ConflictError

import zeo_clone
from zeo_clone.addresses import parse_address
from zeo_clone.Exceptions import CommitOutcomeUnknown

try:
    import readline  # lines can be edited; not every Python has it
except ImportError:
    readline = None

#: How often a transaction is tried before we give up.
ATTEMPTS = 100
#: How long one attempt waits for a server, in seconds.
WAIT_S = 2
#: How often we look whether somebody said something, in seconds.  Looking does not ask the server: its news
#: come by themselves.
LOOK_INTERVAL_S = 0.1
#: Who joins is shown the messages of one day.
DAY_NS = 24 * 3600 * 10**9


# ---- what is in the database ------------------------------------------------------------------------

class Clock(Persistent):
    """Tells the time, in nanoseconds since 1970, but never the same time twice, and never an earlier one.

    It changes whenever it is asked.  So of two transactions that ask it at the same moment only one can be
    committed, and the other gets a ConflictError and has to ask again.
    """

    def __init__(self):
        self._last = 0

    def tick(self):
        self._last = max(time.time_ns(), self._last + 1)
        return self._last


class ChatSession(Persistent):
    """A channel.  The object itself never changes; what changes are the clock and the tree in it."""

    def __init__(self):
        self._clock = Clock()
        self._messages = LOBTree()  # {time: (name, text)}

    def add_message(self, name, text):
        """Commit a message; begin again as often as somebody else was faster."""
        for attempt in transaction.manager.attempts(ATTEMPTS):
            with attempt:
                self._messages[self._clock.tick()] = name, text

    def new_messages(self):
        """What has come since the last call: ``[(time, (name, text)), ...]``."""
        last_time = getattr(self, '_v_last_time', time.time_ns() - DAY_NS)
        new = list(self._messages.items(min=last_time, excludemin=True))
        if new:
            self._v_last_time = new[-1][0]
        return new


def open_session(connection, channel):
    """The ChatSession of `channel`; it is made if there is none."""
    for attempt in transaction.manager.attempts(ATTEMPTS):
        with attempt:
            root = connection.root()
            if 'chatter' not in root:
                root['chatter'] = OOBTree()  # {channel: ChatSession}
            if channel not in root['chatter']:
                root['chatter'][channel] = ChatSession()
    return root['chatter'][channel]


# ---- the terminal -----------------------------------------------------------------------------------

class Terminal:
    """Shows lines above the one that is being typed.  If it is not a terminal, lines simply follow."""

    ERASE_LINE, LINE_UP = '\r\x1b[K', '\x1b[A'
    PROMPT = '> '

    def __init__(self):
        self._is_one = sys.stdin.isatty() and sys.stdout.isatty()
        self._typing = False

    def ask(self):
        """A line from the user.  Raises EOFError for Ctrl-D and KeyboardInterrupt for Ctrl-C."""
        if not self._is_one:
            return input()
        self._typing = True
        try:
            line = input(self.PROMPT)
        finally:
            self._typing = False
        print(self.LINE_UP + self.ERASE_LINE, end='', flush=True)  # it will be shown when it is said
        return line

    def show(self, line):
        """Any thread: show `line`, without what would make a terminal do strange things."""
        line = ''.join(char if char.isprintable() else '?' for char in line)
        if self._is_one:
            typed = self.PROMPT + (readline.get_line_buffer() if readline else '')
            line = f'{self.ERASE_LINE}{line}\n{typed if self._typing else ""}'
        else:
            line += '\n'
        print(line, end='', flush=True)


# ---- the program ------------------------------------------------------------------------------------

def show_news(db, channel, terminal, leaving):
    """The second thread: show what is said, and whether the server is there, until `leaving` is set."""
    connection = db.open()
    connected = True
    while not leaving.wait(LOOK_INTERVAL_S):
        if db.storage.is_connected() != connected:
            connected = not connected
            terminal.show('* the server is back' if connected else
                          '* the server has gone; messages wait until it is back')
        if connected:
            try:
                show_new_messages(connection, channel, terminal)
            except TransientError:
                pass  # the server has gone while we asked it; look again
    connection.close()


def show_new_messages(connection, channel, terminal):
    connection.sync()  # a new transaction, which sees what was committed until now
    session = connection.root()['chatter'][channel]
    for time_ns, (name, text) in session.new_messages():
        clock = time.strftime('%H:%M', time.localtime(time_ns // 10**9))
        terminal.show(f'{clock} {name}: {text}')


def say(session, name, text, terminal):
    """Add a message, or tell why that was not possible."""
    try:
        session.add_message(name, text)
    except TransientError as error:
        terminal.show(f'* not sent: {text} ({error})')
    except CommitOutcomeUnknown:
        terminal.show(f'* the server went before it could confirm this, see whether it was sent: {text}')


def chat(db, channel, name):
    """Let the user talk until Ctrl-D or Ctrl-C."""
    terminal = Terminal()
    session = open_session(db.open(), channel)
    leaving = threading.Event()
    reader = threading.Thread(target=show_news, args=(db, channel, terminal, leaving))
    reader.start()
    try:
        terminal.show(f'* this is {channel}; Ctrl-D leaves')
        while True:
            text = terminal.ask().strip()
            if text:
                say(session, name, text, terminal)
    finally:
        leaving.set()
        db.storage.close()  # should the reader be waiting for the server, it stops now
        reader.join()


def open_database(address, name):
    """The database of the server at `address`; the server is told our name."""
    options = {'wait_timeout': WAIT_S, 'client_label': f'chatter {name}'}
    try:
        return zeo_clone.DB(address, **options)
    except ConflictError:
        # A database begins with its root.  Somebody else has found it empty at the same moment and made one.
        return zeo_clone.DB(address, **options)


def address(text):
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main():
    parser = argparse.ArgumentParser(prog='chatter.py', description='Chat by way of a ZEO server.')
    parser.add_argument('address', metavar='ADDRESS', type=address, help='where the server is: HOST:PORT')
    parser.add_argument('channel', metavar='CHANNEL', help='what you talk about; made if it is new')
    parser.add_argument('name', metavar='NAME', help='who you are')
    given = parser.parse_args()
    sys.stdin.reconfigure(errors='replace')
    sys.stdout.reconfigure(errors='replace')
    # What the log would say about the connection the user learns from us.
    logging.getLogger('zeo_clone').addHandler(logging.NullHandler())
    try:
        with contextlib.closing(open_database(given.address, given.name)) as db:
            chat(db, given.channel, given.name)
    except (EOFError, KeyboardInterrupt):
        print()
    except TransientError as error:
        sys.exit(f'chatter.py: {error}')


if __name__ == '__main__':
    # The database remembers the module of a class.  Here it is called __main__, which is another module in
    # every program; so we run the main() of the module that everybody can import as chatter.
    import chatter
    chatter.main()
