"""examples/chess.py: players and spectators at their terminals, one server."""
from __future__ import annotations

import re
import signal

import pytest

from tests.examples.programs import LIMIT_S, Gate, run_example
from tests.support.proxy import UP

pytestmark = pytest.mark.once

pytest.importorskip('chess')

PROMPT = '\r\n> '


@pytest.fixture
def sit(program, server_process):
    """Let somebody come to the game: ``sit(name)``."""
    def start(name, address=None):
        player = program('chess.py', address or server_process.address, 'friday', name, terminal=True)
        player.read_until(PROMPT)
        return player
    return start


def move(player, text):
    """Type a move; what is on the screen then."""
    player.send(text)
    return player.read_until(PROMPT)


def test_the_first_two_play_and_others_watch_and_who_comes_back_has_the_same_seat(sit):
    ada, bob = sit('Ada'), sit('Bob')
    assert 'Ada - (nobody). You have white.' in ada.output
    assert 'You are watching.' in sit('Eve').output
    assert bob.end_of_input() == 0
    assert 'Ada - Bob. You have black.' in sit('Bob').output


def test_every_player_has_their_own_side_at_the_bottom(sit):
    white, black = sit('Ada').output, sit('Bob').output
    assert white.index('♚') < white.index('♔')
    assert black.index('♔') < black.index('♚')
    assert 'a b c d e f g h' in white
    assert 'h g f e d c b a' in black


def test_boards_change_without_a_key_up_to_mate(sit):
    ada, bob, eve = sit('Ada'), sit('Bob'), sit('Eve')
    eve.type('half a li')
    for number, (white, black) in enumerate([('e4', 'e5'), ('Bc4', 'Nc6'), ('d1h5', 'g8f6')], 1):
        ada.send(white)
        bob.read_until('Black to move.')
        bob.send(black)
        eve.read_until(f'{number}.')
        ada.read_until('Black to move.')
        ada.read_until('White to move.')
    ada.send('Qxf7#')
    for player in ada, bob, eve:
        player.read_until('1.e4 e5 2.Bc4 Nc6 3.Qh5 Nf6 4.Qxf7#')
        player.read_until('1-0: checkmate.')
    assert 'The game is over.' in move(bob, 'Kxf7')
    assert 'half a line is not' not in eve.output
    assert 'watching; only the players move' in move(eve, 'ne')


def test_a_move_against_the_rules_is_refused(sit):
    players = {name: sit(name) for name in ('Ada', 'Bob', 'Eve')}
    for name, text, reason in [
        ('Ada', 'e5', 'e5 is not a legal move here.'),
        ('Ada', '--', '-- is not a legal move here.'),
        ('Ada', '0000', '0000 is not a legal move here.'),
        ('Ada', 'a\x1b[2J', 'a?[2J is not a legal move here.'),
        ('Bob', 'e5', 'It is not your turn.'),
        ('Eve', 'e4', 'You are watching; only the players move.'),
    ]:
        screen = move(players[name], text)
        assert reason in screen
        assert 'White to move.' in screen


def test_of_two_moves_at_the_same_moment_one_is_refused(sit, server_process):
    """Ada sits at two terminals; the commit of one is held while the other's is made."""
    with Gate(server_process.address) as gate:
        slow, fast = sit('Ada', gate.address), sit('Ada')
        gate.hold(UP, b'vote')
        slow.send('e4')
        assert gate.held.wait(LIMIT_S)
        fast.send('d4')
        fast.read_until('1.d4')
        gate.let_go()
        slow.read_until('Not moved: somebody else was faster. Look again.' + PROMPT)
        assert 'It is not your turn.' in move(slow, 'd4')
        assert '1.d4' in sit('Eve').output
        assert slow.end_of_input() == 0


def test_a_move_for_an_older_board_is_refused_even_if_it_is_legal(sit):
    """One of Ada's terminals does not get to look at what happens at the other."""
    late, ada, bob = sit('Ada'), sit('Ada'), sit('Bob')
    late.signal(signal.SIGSTOP)
    ada.send('e4')
    bob.read_until('1.e4')
    bob.send('e5')
    ada.read_until('1.e4 e5')
    late.send('d4')
    late.signal(signal.SIGCONT)
    late.read_until('Not moved: the board has changed meanwhile. Look again.')
    assert '1.e4 e5\r\nWhite to move.' in sit('Eve').output
    late.read_until(PROMPT)
    assert '2.d4' in move(late, 'd4')


def test_while_the_server_is_away_the_board_stays_and_nobody_moves(sit, server_process):
    ada = sit('Ada')
    move(ada, 'e4')
    server_process.stop()
    assert '1.e4' in ada.read_until('The server is away.')
    assert 'Not moved: the server is away.' in move(ada, 'd4')
    server_process.start()
    ada.read_until('Black to move.')
    assert '1.e4 e5' in move(sit('Bob'), 'e5')
    ada.read_until('1.e4 e5')
    assert ada.end_of_input() == 0


def test_ctrl_c_leaves(sit):
    ada = sit('Ada')
    ada.type('\x03')
    assert ada.wait() == 0


def test_without_a_terminal_or_a_server_it_says_so_in_one_line(server_process, program):
    assert run_example('chess.py', server_process.address, 'friday', 'Ada') == (
        1, '', 'chess.py: this is for a terminal\n')
    server_process.stop()
    player = program('chess.py', server_process.address, 'friday', 'Ada', terminal=True)
    assert player.wait() == 1
    assert re.fullmatch(r'chess\.py: no connection to a server.*ConnectionRefusedError.*\n', player.errors())
