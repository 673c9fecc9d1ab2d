"""examples/chatter.py: several people at their terminals, one server."""
from __future__ import annotations

import re

import pytest
import transaction

import zeo_clone
from tests.examples.programs import LIMIT_S, Gate, run_example
from tests.support.proxy import UP

pytestmark = pytest.mark.once

READY = 'Ctrl-D leaves'


@pytest.fixture
def channel(request):
    """Each test has a channel of its own."""
    return request.node.name


@pytest.fixture
def join(program, shared_server, channel):
    """Let somebody join the channel: ``join(name)``."""
    def start(name, address=shared_server.address, **options):
        chatter = program('chatter.py', address, channel, name, **options)
        chatter.read_until(READY)
        return chatter
    return start


@pytest.fixture
def session(shared_server, channel, examples_path):
    """The ChatSession, seen from this process."""
    import chatter
    db = zeo_clone.DB(shared_server.address)
    connection = db.open()
    yield chatter.open_session(connection, channel)
    transaction.abort()
    connection.close()
    db.close()


def said(chatter):
    """What a program showed: ``['Ada: hello', ...]``."""
    return re.findall(r'\d\d:\d\d (\w+: .*)', chatter.output)


def test_what_one_says_appears_at_the_others_without_a_key(join):
    ada, bob = join('Ada'), join('Bob')
    ada.send('hello')
    bob.read_until('Ada: hello\n')
    bob.send('hello yourself')
    ada.read_until('Bob: hello yourself\n')


def test_who_joins_later_is_shown_what_was_said(join):
    ada = join('Ada')
    ada.send('first')
    ada.send('second')
    ada.read_until('Ada: second\n')
    bob = join('Bob')
    bob.read_until('Ada: second\n')
    assert said(bob) == ['Ada: first', 'Ada: second']


def test_the_loser_of_a_conflict_says_it_again(join, shared_server, session):
    """Ada's commit is held while another one is made; her first attempt must fail."""
    with Gate(shared_server.address) as gate:
        ada = join('Ada', gate.address)
        gate.hold(UP, b'vote')
        ada.send('slow')
        assert gate.held.wait(LIMIT_S)
        session.add_message('Bob', 'fast')
        gate.let_go()
        ada.read_until('Ada: slow\n')
        assert ada.end_of_input() == 0
    assert said(ada) == ['Bob: fast', 'Ada: slow']
    assert sum(b'tpc_abort' in frame for _, frame in gate.record) == 1


def test_no_message_is_lost_when_all_talk_at_once(join):
    """Everybody is shown every message, once, and in the same order."""
    names = ['Ada', 'Bob', 'Eve']
    chatters = [join(name) for name in names]
    for chatter in chatters:
        chatter.type(''.join(f'{number}\n' for number in range(15)) + 'end\n')
    for chatter in chatters:
        for _ in range(len(names)):
            chatter.read_until(': end\n')
    shown = [said(chatter) for chatter in chatters]
    assert shown[0] == shown[1] == shown[2]
    for name in names:
        assert [line for line in shown[0] if line.startswith(name)] == [
            *(f'{name}: {number}' for number in range(15)), f'{name}: end']


def test_a_server_that_goes_costs_one_line_and_no_message(join, server_process):
    ada = join('Ada', server_process.address)
    server_process.kill()
    ada.read_until('* the server has gone; messages wait until it is back\n')
    ada.send('anybody there?')
    server_process.start()
    ada.read_until('Ada: anybody there?\n')
    assert ada.end_of_input() == 0
    assert ada.output.count('*') == 3  # the channel, gone, back
    assert ada.errors() == ''


def test_ctrl_c_leaves_while_a_message_waits_for_the_server(join, server_process):
    ada = join('Ada', server_process.address, terminal=True)
    server_process.kill()
    ada.read_until('has gone')
    ada.send('anybody there?')
    ada.read_until('\x1b[A')  # the line was taken
    ada.type('\x03')
    assert ada.wait() == 0


def test_ctrl_d_leaves(join):
    ada = join('Ada', terminal=True)
    ada.read_until('> ')
    assert ada.end_of_input() == 0


def test_at_a_terminal_a_message_appears_above_the_line_being_typed(join):
    pytest.importorskip('readline')
    ada, bob = join('Ada', terminal=True), join('Bob')
    ada.read_until('> ')
    ada.type('half a li')
    ada.read_until('half a li')
    bob.send('hello')
    ada.read_until('Bob: hello')
    ada.read_until('> half a li')
    ada.send('ne')
    bob.read_until('Ada: half a line\n')
    ada.type('\x03')
    assert ada.wait() == 0


def test_what_would_make_a_terminal_do_strange_things_is_not_shown(join):
    ada, bob = join('Ada'), join('Bob')
    ada.send('a\x1b[2Jb')
    bob.read_until('Ada: a?[2Jb\n')


def test_a_wrong_address_is_explained():
    code, _, errors = run_example('chatter.py', 'localhost', 'general', 'Ada')
    assert code == 2
    assert errors.splitlines()[-1].startswith(
        "chatter.py: error: argument ADDRESS: bad address 'localhost': the port is missing")


def test_a_server_that_is_not_there_is_one_line(tmp_path):
    code, _, errors = run_example('chatter.py', tmp_path / 'zeo.sock', 'general', 'Ada')
    assert code == 1
    assert re.fullmatch(r'chatter\.py: no connection to a server at .*FileNotFoundError.*\n', errors)


def test_messages_of_the_same_moment_are_both_kept(session, monkeypatch):
    monkeypatch.setattr('time.time_ns', lambda: 10**18)
    session.add_message('Ada', 'one')
    session.add_message('Bob', 'other')
    assert [message for _, message in session.new_messages()] == [('Ada', 'one'), ('Bob', 'other')]


def test_a_clock_that_goes_back_hides_no_message(session, monkeypatch):
    monkeypatch.setattr('time.time_ns', lambda: 2 * 10**18)
    session.add_message('Ada', 'early')
    assert [message for _, message in session.new_messages()] == [('Ada', 'early')]
    monkeypatch.setattr('time.time_ns', lambda: 10**18)
    session.add_message('Bob', 'late')
    assert [message for _, message in session.new_messages()] == [('Bob', 'late')]


def test_what_was_read_is_not_stored(session):
    """The volatile attribute is this process's own; without it, the messages of a day are new again."""
    session.add_message('Ada', 'hello')
    assert len(session.new_messages()) == 1
    assert not session._p_changed
    assert session.new_messages() == []
    session._p_invalidate()
    assert len(session.new_messages()) == 1


def test_older_messages_than_a_day_are_not_shown_to_who_joins(session, monkeypatch):
    import chatter
    monkeypatch.setattr('time.time_ns', lambda: 10**18)
    session.add_message('Ada', 'yesterday')
    monkeypatch.setattr('time.time_ns', lambda: 10**18 + chatter.DAY_NS)
    session.add_message('Ada', 'today')
    assert [text for _, (_, text) in session.new_messages()] == ['today']
