"""A whiteboard in several windows: what one draws, all see within a moment.

What it shows: a graphical program on a shared database.  Each stroke is a persistent object.  A window
looks often whether anything has changed, which costs nothing, because the server sends its news by itself,
and then draws the strokes that are new.  Nothing here waits for the server while the user could be drawing.

How to start it: a server, and then as many windows as you like, on as many machines.

    zeo-clone serve -a localhost:9100 -f whiteboard.fs
    python examples/whiteboard.py localhost:9100
    python examples/whiteboard.py localhost:9100

What to look at: draw with the left button of the mouse; the stroke appears in the other window when you let
go.  Let two people draw at once: the server merges their changes.  Stop the server: the line at the bottom
says so, the picture stays.  Start it again: the windows go on.  The picture is still there next week.
"""
from __future__ import annotations

import argparse
import logging
import signal
import sys
import time

import transaction
from BTrees.LOBTree import LOBTree
from persistent import Persistent
from transaction.interfaces import TransientError
from ZODB import DB
from ZODB.POSException import ConflictError

from zeo_clone import ClientStorage
from zeo_clone.addresses import format_address, parse_address
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

try:
    import tkinter
except ImportError as error:  # not every Python was built with it
    sys.exit(f'whiteboard.py: this Python cannot open windows ({error}); '
             'it needs Tk: apt-get install python3-tk, or a Python that was built with tk-dev installed')

COLOURS = '#1f2937', '#dc2626', '#2563eb', '#16a34a', '#f59e0b'
PEN_WIDTH = 3
#: How often we look whether something has changed, in milliseconds.
LOOK_INTERVAL_MS = 50
#: How often a change is tried that meets another one.
TRIES = 10
#: How long a single question waits for a server that has just gone, in seconds.
WAIT_S = 1


# ---- what is in the database ------------------------------------------------------------------------

class Whiteboard(Persistent):
    """All strokes, by the time when they were drawn."""

    def __init__(self):
        self.strokes = LOBTree()  # {nanoseconds since 1970: Stroke}

    def add(self, stroke):
        """Two people who add at the same time have different keys, so the server can merge their changes.

        Should the keys be the same, one of them gets a ConflictError, and tries again later.
        """
        self.strokes[time.time_ns()] = stroke

    def clear(self):
        self.strokes.clear()


class Stroke(Persistent):
    """A line that somebody drew.  It never changes."""

    def __init__(self, colour, points):
        self.colour = colour
        self.points = points  # (x, y, x, y, ...) in pixels


def open_whiteboard(connection):
    """The whiteboard in this database; it is made if there is none."""
    def find_or_make():
        root = connection.root()
        if 'whiteboard' not in root:
            root['whiteboard'] = Whiteboard()
        return root['whiteboard']

    return transaction.manager.run(find_or_make, TRIES)


# ---- the window -------------------------------------------------------------------------------------

class Away(Exception):
    """There is no server now."""


class Window:
    """The window and its connection to the database, all in the thread of Tk."""

    def __init__(self, tk, storage, address):
        self._tk = tk
        self._storage = storage
        self._address = address
        self._db = None         # made when there is a server for the first time
        self._whiteboard = None
        self._state = None      # of the database, when we last looked
        self._shown = {}        # {key of a stroke: its item on the canvas}
        self._points = []       # of the stroke that is being drawn
        self._pen = None        # the item that shows it
        self._colour = tkinter.StringVar(tk, COLOURS[0])
        tk.title(f'Whiteboard at {address}')
        self._add_tools()
        self._status = tkinter.Label(tk, anchor='w', padx=6)
        self._status.pack(side='bottom', fill='x')
        self._canvas = tkinter.Canvas(tk, width=640, height=400, background='white',
                                      highlightthickness=0, cursor='pencil')
        self._canvas.pack(fill='both', expand=True)
        self._canvas.bind('<Button-1>', self._pen_down)
        self._canvas.bind('<B1-Motion>', self._pen_moved)
        self._canvas.bind('<ButtonRelease-1>', self._pen_up)
        self._look()

    def close(self):
        (self._db or self._storage).close()

    def _add_tools(self):
        tools = tkinter.Frame(self._tk)
        tools.pack(side='top', fill='x')
        for colour in COLOURS:
            button = tkinter.Radiobutton(
                tools, variable=self._colour, value=colour, indicatoron=False, width=3, borderwidth=4,
                offrelief='flat', background=colour, activebackground=colour, selectcolor=colour)
            button.pack(side='left', padx=2, pady=2)
        tkinter.Button(tools, text='Clear', command=self._clear).pack(side='right', padx=2, pady=2)

    # ---- what others do

    def _look(self):
        """Look whether anything has changed, and have Tk call us again in a moment."""
        # Both are known without asking: the last transaction that the server told us of.
        state = self._storage.lastTransaction(), self._storage.is_connected()
        if state != self._state:
            try:
                self._show(connected=state[1])
                self._state = state
            except TransientError:
                pass  # the server has gone just now, or two made the whiteboard at once; look again
        self._tk.after(LOOK_INTERVAL_MS, self._look)

    def _show(self, connected):
        if connected:
            self._tell(f'Connected to {self._address}.')
            self._show_strokes()
        else:
            self._tell(f'There is no server at {self._address}. Nobody can draw until it is there.', bad=True)

    def _show_strokes(self):
        """Draw what is new, and remove what is gone."""
        if self._whiteboard is None:
            self._db = self._db or DB(self._storage)
            self._whiteboard = open_whiteboard(self._db.open())
        transaction.begin()  # now we see what was committed until now
        strokes = self._whiteboard.strokes
        for key in set(self._shown).difference(strokes):
            self._canvas.delete(self._shown.pop(key))
        for key in set(strokes).difference(self._shown):
            self._shown[key] = self._draw(strokes[key].colour, strokes[key].points)

    def _draw(self, colour, points):
        return self._canvas.create_line(
            *points, fill=colour, width=PEN_WIDTH, capstyle='round', joinstyle='round')

    def _tell(self, text, bad=False):
        self._status.configure(text=text, background='#b91c1c' if bad else '#e5e7eb',
                               foreground='white' if bad else 'black')

    # ---- what our user does

    def _pen_down(self, event):
        self._points = [event.x, event.y, event.x + 1, event.y]  # a click is a dot
        self._pen = self._draw(self._colour.get(), self._points)

    def _pen_moved(self, event):
        if self._pen is not None:
            self._points += event.x, event.y
            self._canvas.coords(self._pen, *self._points)

    def _pen_up(self, event):
        if self._pen is None:
            return
        stroke = Stroke(self._colour.get(), tuple(self._points))
        self._change(lambda: self._whiteboard.add(stroke))
        self._canvas.delete(self._pen)  # if it was stored, it is shown as all others are
        self._pen = None

    def _clear(self):
        self._change(lambda: self._whiteboard.clear())

    def _change(self, function):
        """Call `function` and commit, again if somebody else was faster, and show what is there then."""
        def attempt():
            if self._whiteboard is None or not self._storage.is_connected():
                raise Away
            function()

        try:
            transaction.manager.run(attempt, TRIES)
            self._show_strokes()
        except (Away, ClientDisconnected):
            self._tell(f'Not stored: there is no server at {self._address}.', bad=True)
        except ConflictError:
            self._tell(f'Not stored: others were faster {TRIES} times. Please try again.', bad=True)
        except CommitOutcomeUnknown:
            self._tell('The server went before it could confirm this.', bad=True)


def address(text):
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main():
    parser = argparse.ArgumentParser(prog='whiteboard.py', description='Draw by way of a ZEO server.')
    parser.add_argument('address', metavar='ADDRESS', type=address, help='where the server is: HOST:PORT')
    parser.add_argument('--geometry', metavar='+X+Y', help='where to open the window')
    given = parser.parse_args()
    # What the log would say about the connection the user sees in the window.
    logging.getLogger('zeo_clone').addHandler(logging.NullHandler())
    try:
        tk = tkinter.Tk()
        tk.geometry(given.geometry)
    except tkinter.TclError as error:
        sys.exit(f'whiteboard.py: {error}')
    storage = ClientStorage.ClientStorage(
        given.address, wait=False, wait_timeout=WAIT_S, client_label='whiteboard')
    window = Window(tk, storage, format_address(given.address))
    signal.signal(signal.SIGINT, lambda *_: tk.quit())
    try:
        tk.mainloop()
    finally:
        window.close()


if __name__ == '__main__':
    # The database remembers the module of a class.  Here it is called __main__, which is another module in
    # every program; so we run the main() of the module that everybody can import as whiteboard.
    import whiteboard
    whiteboard.main()
