"""Chess over the network: two players and any number of spectators, each at a terminal.

What it shows: all look at the same object, the game.  Boards change when somebody moves, without a key
being pressed.  A move is a transaction: one that was meant for a board that has changed meanwhile is
refused, by us or by a ConflictError, and never lands on the wrong board.

How to start it: a server, and then the game in three terminals.  It needs ``pip install '.[examples]'``,
whose library `chess` knows the rules.

    zeo-clone serve -a localhost:9100 -f chess.fs
    python examples/chess.py localhost:9100 friday Ada
    python examples/chess.py localhost:9100 friday Bob
    python examples/chess.py localhost:9100 friday Eve

What to look at: the first two who come play, Ada has white; the others watch.  Moves are typed as chess
players write them, e4, Nf3, O-O, or as e2e4.  Let Ada sit at two terminals, and move in both.  Stop the
server: the board stays, and a move is not made.  Ctrl-D leaves; who comes back has the same seat.
"""
from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import sys
from pathlib import Path

import transaction
from BTrees.OOBTree import OOBTree
from persistent.mapping import PersistentMapping
from transaction.interfaces import TransientError
from ZODB.POSException import ConflictError

import zeo_clone
from zeo_clone.addresses import parse_address
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

# Python looks for modules in the directory of this file first, and would find this file as `chess`.
HERE = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path).resolve() != HERE]
try:
    import chess
except ImportError:
    sys.exit("chess.py: the library of that name is missing: pip install '.[examples]'")

#: How long we wait for a server, in seconds.
WAIT_S = 3
#: How often we look whether something has changed, in seconds.  Looking does not ask the server: its news
#: come by themselves.
LOOK_INTERVAL_S = 0.1
LONGEST_NAME = 20
SHOWN_MOVES = 12
AWAY = 'Not moved: the server is away.'
SIDES = {chess.WHITE: 'white', chess.BLACK: 'black'}


class Refused(Exception):
    """A move that is not made, and why."""


# ---- what is in the database ------------------------------------------------------------------------
#
# root['chess'] -> {name of the game: game}; a game is {'white': name, 'black': name, 'moves': ('e2e4', ...)}

def open_game(connection, name):
    """The game of that name; it is made if there is none."""
    def find_or_make():
        games = connection.root()
        if 'chess' not in games:
            games['chess'] = OOBTree()
        games = games['chess']
        if name not in games:
            games[name] = PersistentMapping(white=None, black=None, moves=())
        return games[name]

    return transaction.manager.run(find_or_make)


def take_seat(game, name):
    """Give `name` a side, if there is one left, or the one that they had; the side, or None.

    If two come at once, one of them gets a ConflictError, and `run` tries again: the seat is taken then.
    """
    def sit_down():
        for side in SIDES.values():
            if game[side] in (None, name):
                if game[side] is None:
                    game[side] = name
                return side
        return None

    return transaction.manager.run(sit_down)


def make_move(game, side, text, seen):
    """Commit the move `text` of `side`, who has seen the board after `seen` moves.  Raises Refused."""
    transaction.begin()  # now the game is as others left it
    board = board_of(game)
    if side is None:
        raise Refused('You are watching; only the players move.')
    if len(game['moves']) != seen:
        raise Refused('Not moved: the board has changed meanwhile. Look again.')
    if board.outcome():
        raise Refused('The game is over.')
    if SIDES[board.turn] != side:
        raise Refused('It is not your turn.')
    game['moves'] += (read_move(board, text).uci(),)
    try:
        transaction.commit()
    except ConflictError:  # somebody moved between our begin and our commit
        raise Refused('Not moved: somebody else was faster. Look again.') from None


def board_of(game):
    board = chess.Board()
    for move in game['moves']:
        board.push_uci(move)
    return board


def read_move(board, text):
    """The legal move that `text` means.  Raises Refused."""
    try:
        move = board.parse_san(text)
    except chess.AmbiguousMoveError:
        raise Refused(f'{text} can mean several moves. Say from where.') from None
    except ValueError:
        try:
            move = board.parse_uci(text)
        except ValueError:
            move = None
    if not move:  # none, or the library's null move, which leaves the turn to the other
        raise Refused(f'{text} is not a legal move here.')
    return move


# ---- what is on the screen --------------------------------------------------------------------------

CLEAR, HOME, ERASE_LINE = '\x1b[2J', '\x1b[H', '\x1b[K'
SAVE_CURSOR, RESTORE_CURSOR = '\x1b7', '\x1b8'


def picture(game, side, away):
    """The lines above the prompt, always equally many."""
    board = board_of(game)
    white, black = game['white'] or '(nobody)', game['black'] or '(nobody)'
    role = f'You have {side}.' if side else 'You are watching.'
    rows = [f'{rank + 1}  ' + ' '.join(sign(board, chess.square(file, rank)) for file in range(8))
            for rank in reversed(range(8))]
    if side == 'black':
        rows = [row[:3] + row[3:][::-1] for row in reversed(rows)]
    files = 'h g f e d c b a' if side == 'black' else 'a b c d e f g h'
    return [printable(f'{white} - {black}. {role}'), '', *rows, f'   {files}', '',
            moves_line(game), 'The server is away.' if away else status(board)]


def sign(board, square):
    piece = board.piece_at(square)
    return piece.unicode_symbol() if piece else '·'


def moves_line(game):
    """The last moves, as chess players write them."""
    board, words = chess.Board(), []
    for number, uci in enumerate(game['moves']):
        move = chess.Move.from_uci(uci)
        words.append(f'{number // 2 + 1}.{board.san(move)}' if board.turn else board.san(move))
        board.push(move)
    return ' '.join(words[-SHOWN_MOVES:])


def status(board):
    outcome = board.outcome()
    if outcome:
        return f'{outcome.result()}: {outcome.termination.name.lower().replace("_", " ")}.'
    return f'{SIDES[board.turn].capitalize()} to move{", in check" if board.is_check() else ""}.'


def printable(text):
    """Without what would make a terminal do strange things."""
    return ''.join(char if char.isprintable() else '?' for char in text)


class Screen:
    """The board, a message, and a line in which one types."""

    def __init__(self):
        self.message = 'Type a move, or Ctrl-D to leave.'

    def draw(self, lines):
        """Draw all; begin a new line to type."""
        self._write(CLEAR, HOME, '\n'.join([*lines, printable(self.message), '> ']))

    def refresh(self, lines):
        """Draw the board anew, without a message, and leave alone what is being typed."""
        self._write(SAVE_CURSOR, HOME, *(f'{line}{ERASE_LINE}\n' for line in [*lines, '']), RESTORE_CURSOR)

    def _write(self, *parts):
        print(*parts, sep='', end='', flush=True)


# ---- the program ------------------------------------------------------------------------------------

class Player:
    """Somebody at a terminal: sees the game, and may move."""

    def __init__(self, connection, name_of_game, name):
        self._storage = connection.db().storage
        self._game = open_game(connection, name_of_game)
        self._side = take_seat(self._game, name)
        self._screen = Screen()
        self._state = None      # of the database, when we last looked
        self._moves_seen = 0
        self._lines = []

    def play(self):
        """Until Ctrl-D."""
        self._look()
        self._screen.draw(self._lines)
        while True:
            if typed():
                text = os.read(sys.stdin.fileno(), 1000).decode(errors='replace')
                if not text:
                    return
                self._move(text.strip())
                self._look()
                self._screen.draw(self._lines)
            elif self._look():
                self._screen.refresh(self._lines)

    def _look(self):
        """Look at the game if anything has changed; whether it has."""
        # Both are known without asking: the last transaction that the server told us of.
        state = self._storage.lastTransaction(), self._storage.is_connected()
        if state == self._state:
            return False
        try:
            transaction.begin()
            self._lines = picture(self._game, self._side, away=not state[1])
            self._moves_seen = len(self._game['moves'])
        except TransientError:
            return False  # the server went just now; look again
        self._state = state
        return True

    def _move(self, text):
        self._screen.message = ''
        if not text:
            return
        try:
            if not self._storage.is_connected():
                raise Refused(AWAY)
            self._storage.ping()  # when it returns, all news that the server had have come
            make_move(self._game, self._side, text, self._moves_seen)
        except Refused as error:
            self._screen.message = str(error)
        except ClientDisconnected:
            self._screen.message = AWAY
        except CommitOutcomeUnknown:
            self._screen.message = 'The server went before it could confirm it: look whether you have moved.'
        finally:
            transaction.abort()  # what was not committed


def typed():
    """Whether a line was typed; waits a moment for one."""
    return bool(select.select([sys.stdin], [], [], LOOK_INTERVAL_S)[0])


def address(text):
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def main():
    parser = argparse.ArgumentParser(prog='chess.py', description='Chess by way of a ZEO server.')
    parser.add_argument('address', metavar='ADDRESS', type=address, help='where the server is: HOST:PORT')
    parser.add_argument('game', metavar='GAME', help='which game; made if it is new')
    parser.add_argument('name', metavar='NAME', help='who you are')
    given = parser.parse_args()
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        sys.exit('chess.py: this is for a terminal')
    # What the log would say about the connection the player sees on the screen.
    logging.getLogger('zeo_clone').addHandler(logging.NullHandler())
    try:
        db = zeo_clone.DB(given.address, wait_timeout=WAIT_S, client_label=f'chess {given.name}')
        with contextlib.closing(db):
            Player(db.open(), given.game, given.name[:LONGEST_NAME]).play()
    except ClientDisconnected as error:
        sys.exit(f'chess.py: {error}')
    except KeyboardInterrupt:
        pass
    print()


if __name__ == '__main__':
    main()
