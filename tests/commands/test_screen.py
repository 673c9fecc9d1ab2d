"""What zeo-status shows at a terminal: trouble, what fits, the last report."""
from __future__ import annotations

import os

import pytest

from zeo_clone.commands import screen, statustable
from zeo_clone.commands.screen import BOLD, BOLD_RED, CLEAR, PLAIN, Screen
from zeo_clone.commands.statustable import Loud, Sample

FULL = {'last-transaction': '0' * 15 + '1', 'connections': 1}
EMPTY = {'last-transaction': '0' * 16, 'connections': 0}


@pytest.fixture
def terminal(monkeypatch):
    """Make a terminal of stdout: ``terminal(columns, rows)``."""
    monkeypatch.delenv('NO_COLOR', raising=False)

    def make(columns=80, rows=24):
        monkeypatch.setattr('sys.stdout.isatty', lambda: True, raising=False)
        monkeypatch.setattr(screen.shutil, 'get_terminal_size', lambda: os.terminal_size((columns, rows)))
    return make


def test_what_does_not_fit_is_cut_to_the_right_and_below(terminal, capsys):
    terminal(10, 5)
    Screen(watching=True).show([f'line {number} and more' for number in range(6)])
    assert capsys.readouterr().out == (
        CLEAR + 'line 0 and\nline 1 and\nline 2 and\n... and 3 \n')


def test_what_fits_is_all_shown(terminal, capsys):
    terminal(10, 4)
    Screen(watching=True).show(['a', 'b', 'c'])
    assert capsys.readouterr().out == CLEAR + 'a\nb\nc\n'


def test_a_single_report_is_not_cropped(terminal, capsys):
    terminal(10, 3)
    Screen(watching=False).show(list('abcdef'))
    assert capsys.readouterr().out == 'a\nb\nc\nd\ne\nf\n'


def test_terminal_of_unknown_size_gets_everything(terminal, capsys):
    terminal(0, 0)
    Screen(watching=True).show(['x' * 200] * 50)
    assert capsys.readouterr().out == CLEAR + ('x' * 200 + '\n') * 50


def test_trouble_is_red_or_bold(terminal, capsys):
    terminal()
    Screen(watching=False).show(['all', Loud('bad', True), Loud('odd', False)])
    assert capsys.readouterr().out == f'all\n{BOLD_RED}bad{PLAIN}\n{BOLD}odd{PLAIN}\n'


def test_trouble_has_no_colour_for_who_wants_none(terminal, capsys, monkeypatch):
    terminal()
    monkeypatch.setenv('NO_COLOR', '1')
    Screen(watching=False).show([Loud('bad', True)])
    assert capsys.readouterr().out == f'{BOLD}bad{PLAIN}\n'


def test_file_gets_neither_colours_nor_crops(capsys):
    Screen(watching=True).show([Loud('x' * 300, True)] * 100)
    assert capsys.readouterr().out == ('x' * 300 + '\n') * 100


def test_last_report_stays_when_the_server_has_gone(terminal, capsys):
    terminal()
    shown = Screen(watching=True)
    shown.complain('no answer from x')
    shown.show(['the report'], '2026-01-01 10:00:00')
    capsys.readouterr()
    for _ in range(2):
        shown.complain('no answer from x')
        assert capsys.readouterr().out == (f'{CLEAR}{BOLD_RED}no answer from x{PLAIN}\n'
                                           'what follows is from 2026-01-01 10:00:00\n\nthe report\n')


def test_file_is_told_only_what_is_wrong(capsys):
    shown = Screen(watching=True)
    shown.show(['the report'], 'now')
    shown.complain('no answer from x')
    assert capsys.readouterr().out == 'the report\n\nno answer from x\n'


# -- the table's lines ----------------------------------------------------------------------------------

def test_trouble_comes_first_and_its_storages_do_and_empty_ones_are_folded():
    status = {'a': FULL, 'b': EMPTY, 'c': EMPTY, 'd': {**FULL, 'waiting': 4},
              'e': {**EMPTY, 'failed': 'tpc_vote: \x1b'}}
    lines = statustable.table('server', Sample(status, 0.0), None)
    assert lines[:3] == ['server', 'ALARM: storage e: it has failed in tpc_vote: ?',
                         'warning: storage d: 4 transactions wait for the commit lock']
    assert [(type(line), line.bad) for line in lines[1:3]] == [(Loud, True), (Loud, False)]
    assert [line.split(':')[0] for line in lines if line.startswith('storage ')] == [
        'storage d', 'storage e', 'storage a']
    assert 'empty, without clients: b, c' in lines


def test_empty_storages_are_shown_if_there_are_no_others():
    lines = statustable.table('server', Sample({'a': EMPTY, 'b': EMPTY}, 0.0), None)
    assert [line.split(':')[0] for line in lines if line.startswith('storage ')] == ['storage a', 'storage b']
