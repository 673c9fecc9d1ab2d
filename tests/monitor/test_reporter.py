"""Questions to a server's loop."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.monitor.reporter import PATIENCE_S, Report, Reporter


class Server:
    """A server whose loop is turned by hand."""

    def __init__(self):
        self.calls = []
        self.status = {'1': {}}

    def call_in_loop(self, function):
        self.calls.append(function)

    def turn(self):
        while self.calls:
            self.calls.pop(0)()

    def ruok(self):
        return self.status


@pytest.fixture
def loop():
    return HandLoop(ClockRuntime())


@pytest.fixture
def reporter(loop):
    return Reporter(loop)


def test_all_who_ask_at_once_share_one_look(loop, reporter):
    server, heard = Server(), []
    for _ in range(3):
        reporter.ask(server, heard.append)
    assert len(server.calls) == 1
    loop.runtime.now += 0.5
    server.turn()
    assert heard == []  # it is told in the monitor's own thread
    loop.turn()
    assert heard == [Report(server.status, 0.5, loop.runtime.now)] * 3
    loop.advance(PATIENCE_S)
    assert len(heard) == 3
    reporter.ask(server, heard.append)
    assert len(server.calls) == 1


def test_loop_that_does_not_answer_is_waited_for_only_so_long_and_not_asked_again(loop, reporter):
    server, heard = Server(), []
    reporter.ask(server, heard.append)
    loop.advance(PATIENCE_S / 2)
    reporter.ask(server, heard.append)
    loop.advance(PATIENCE_S / 2)
    assert heard == [None]
    loop.advance(PATIENCE_S / 2)
    assert heard == [None, None]
    assert len(server.calls) == 1
    server.turn()
    loop.turn()
    assert heard == [None, None]
    reporter.ask(server, heard.append)
    server.turn()
    loop.turn()
    assert heard[2].storages == server.status


def test_server_that_cannot_say_how_it_does_is_not_well(loop, reporter, caplog):
    server, heard = Server(), []
    server.ruok = lambda: 1 / 0
    reporter.ask(server, heard.append)
    server.turn()
    loop.turn()
    assert heard == [None]
    assert 'cannot look at the state of' in caplog.text
