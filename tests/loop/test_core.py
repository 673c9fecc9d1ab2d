from __future__ import annotations

import logging
import os
import signal
import socket
import threading

import pytest

from tests.loop.recorder import Recorder
from tests.support.forks import told_by_child
from zeo_clone.loop.core import Loop
from zeo_clone.loop.poller import READ, WRITE


def run_in_thread(loop):
    thread = threading.Thread(target=loop.run)
    thread.start()
    return thread


# ---- dispatchers --------------------------------------------------------------------------------

def test_ready_dispatcher_is_called_and_a_quiet_one_is_not(loop, pair, other_pair):
    ready, quiet = Recorder(loop, pair[0]), Recorder(loop, other_pair[0])
    ready.open(READ)
    quiet.open(READ)
    pair[1].send(b'x')
    loop.turn(0)
    assert ready.events == ['read']
    assert quiet.events == []


def test_dispatcher_closed_earlier_in_the_same_turn_gets_no_event(loop, pair, other_pair):
    events = []
    first = Recorder(loop, pair[0], events, 'first ', on_read=lambda: second.close())
    second = Recorder(loop, other_pair[0], events, 'second ', on_read=lambda: first.close())
    for dispatcher, peer in ((first, pair[1]), (second, other_pair[1])):
        dispatcher.open(READ)
        peer.send(b'x')
    loop.turn(0)
    assert len(events) == 1  # whichever came first closed the other one
    loop.turn(0)
    assert len(events) == 2  # and goes on itself


def test_closing_that_an_exception_of_a_signal_ended_can_be_done_again(loop, pair, monkeypatch):
    recorder = Recorder(loop, pair[0])
    recorder.open(READ)
    fd, before = recorder.fd, len(loop)

    def interrupted(fd, mask):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.poller, 'set_interest', interrupted)
        with pytest.raises(KeyboardInterrupt):
            recorder.close()
    recorder.close()
    assert recorder.closed
    assert len(loop) == before - 1
    assert fd not in loop.poller._masks
    assert pair[0].fileno() == -1


def test_event_of_a_closed_dispatcher_is_not_given_to_its_successor_with_the_same_number(
        virtual_loop, pair, other_pair):
    """A connect that has just begun would take the hang-up of the old connection for its own."""
    loop, fd = virtual_loop, pair[0].fileno()
    old, successor = Recorder(loop, pair[0]), []

    def replace():
        old.close()
        os.dup2(other_pair[0].fileno(), fd)
        successor.append(Recorder(loop, socket.socket(fileno=fd)))
        successor[0].open(WRITE)

    first = Recorder(loop, other_pair[0], on_read=replace)
    first.open(READ)
    old.open(READ)
    loop.runtime.poller.ready.append([(first.fd, READ), (fd, READ | WRITE)])
    loop.turn(0)
    assert (old.events, successor[0].events) == ([], [])
    loop.runtime.poller.ready.append([(fd, WRITE)])
    loop.turn(0)
    assert successor[0].events == ['write']


def test_exception_in_a_handler_closes_that_dispatcher_only(loop, pair, other_pair, caplog):
    def fail():
        raise ValueError('no good')

    bad, good = Recorder(loop, pair[0], on_read=fail), Recorder(loop, other_pair[0])
    for dispatcher, peer in ((bad, pair[1]), (good, other_pair[1])):
        dispatcher.open(READ)
        peer.send(b'x')
    loop.turn(0)
    loop.turn(0)
    assert bad.events == ['read', 'close']
    assert good.events == ['read', 'read']
    record, = caplog.records
    assert record.message == f'<Recorder fd {bad.fd}> failed and is closed'
    assert str(record.exc_info[1]) == 'no good'


def test_unregistered_dispatcher_is_forgotten(loop, pair):
    dispatcher = Recorder(loop, pair[0])
    dispatcher.open(READ)
    assert len(loop) == 1
    loop.unregister(dispatcher)
    loop.unregister(dispatcher)
    assert len(loop) == 0
    pair[1].send(b'x')
    loop.turn(0)
    assert dispatcher.events == []


def test_interest_set_by_another_thread_wakes_a_waiting_turn(loop, pair):
    dispatcher = Recorder(loop, pair[0], on_read=loop.stop)
    loop.register(dispatcher)
    pair[1].send(b'x')
    thread = run_in_thread(loop)
    dispatcher.set_interest(READ)
    thread.join()
    assert dispatcher.events == ['read']


# ---- timers -------------------------------------------------------------------------------------

def test_turn_waits_for_the_next_timer_but_not_longer_than_it_was_told(virtual_loop):
    called = []
    virtual_loop.call_later(3, lambda: called.append('timer'))
    virtual_loop.turn(1)
    assert called == []
    virtual_loop.turn(None)
    assert called == ['timer']
    virtual_loop.turn(7)
    assert virtual_loop.runtime.poller.waits == [1, 2, 7]


def test_a_timer_in_years_and_a_wait_for_as_long_are_no_error(loop, pair):
    """The system takes no such time-outs; options may ask for them."""
    loop.call_later(1e9, lambda: None)
    recorder = Recorder(loop, pair[0])
    recorder.open(READ)
    loop.door(lambda: pair[1].send(b'x'))
    while not recorder.events:
        loop.turn(1e9)
    assert loop.runtime.wait(pair[0].fileno(), False, True, 1e9)


def test_due_timer_does_not_let_a_turn_wait(virtual_loop):
    virtual_loop.call_later(0, lambda: None)
    virtual_loop.turn(None)
    assert virtual_loop.runtime.poller.waits == [0]


def test_timer_that_fails_is_logged_and_the_others_are_called(virtual_loop, caplog):
    called = []
    virtual_loop.call_later(1, lambda: 1 / 0)
    virtual_loop.call_later(1, lambda: called.append('other'))
    virtual_loop.turn(None)
    assert called == ['other']
    assert 'a callback of the event loop failed' in caplog.text
    assert 'ZeroDivisionError' in caplog.text


# ---- the door -----------------------------------------------------------------------------------

def test_callbacks_from_many_threads_run_in_the_loop_s_thread_each_thread_s_in_order(loop):
    threads, each = 8, 500
    seen, where = [], set()

    def note(name, number):
        seen.append((name, number))
        where.add((threading.get_ident(), loop.in_loop_thread()))
        if len(seen) == threads * each:
            loop.stop()

    def hand_in(name):
        for number in range(each):
            loop.door(lambda number=number: note(name, number))

    loop_thread = run_in_thread(loop)
    ident = loop_thread.ident
    workers = [threading.Thread(target=hand_in, args=(name,)) for name in range(threads)]
    for worker in workers:
        worker.start()
    for thread in (*workers, loop_thread):
        thread.join()
    assert where == {(ident, True)}
    assert not loop.in_loop_thread()
    for name in range(threads):
        assert [number for who, number in seen if who == name] == list(range(each))


def test_callback_that_fails_is_logged_and_the_next_is_called(loop, caplog):
    called = []
    loop.door(lambda: 1 / 0)
    loop.door(lambda: called.append('next'))
    loop.turn(0)
    assert called == ['next']
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_wake_ends_a_wait_without_calling_anything(loop):
    loop.wake()
    loop.turn(None)  # would wait for ever
    assert len(loop) == 0


def test_turn_within_a_turn_delivers_what_is_ready(loop, pair):
    inner = Recorder(loop, pair[0])
    loop.door(lambda: (inner.open(READ), pair[1].send(b'x'), loop.turn(None)))
    loop.turn(None)
    assert inner.events == ['read']


# ---- stop and close -----------------------------------------------------------------------------

def test_stop_from_another_thread_ends_run(loop):
    thread = run_in_thread(loop)
    loop.stop()
    thread.join()


def test_stop_before_run_ends_it_at_once_and_run_can_be_called_again(loop):
    loop.stop()
    loop.run()
    called = []
    loop.door(lambda: (called.append(1), loop.stop()))
    loop.run()
    assert called == [1]


def test_stop_in_a_signal_handler_ends_run_although_the_wait_is_resumed_after_a_signal(loop):
    main = threading.main_thread().ident
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())
    killer = threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGUSR1))
    try:
        loop.door(killer.start)
        loop.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    killer.join()


def test_close_tells_and_closes_all_dispatchers(loop, pair, other_pair):
    dispatchers = [Recorder(loop, pair[0]), Recorder(loop, other_pair[0])]
    for dispatcher in dispatchers:
        dispatcher.open(READ)
    loop.close()
    assert [dispatcher.events for dispatcher in dispatchers] == [['close'], ['close']]
    assert pair[0].fileno() == other_pair[0].fileno() == -1
    assert len(loop) == 0


def test_dispatcher_that_cannot_be_closed_does_not_keep_the_others_open(loop, pair, other_pair, caplog):
    class Stubborn(Recorder):
        def handle_close(self):
            self.close()
            raise ValueError('no')

    Stubborn(loop, pair[0]).open()
    other = Recorder(loop, other_pair[0])
    other.open()
    loop.close()
    assert other.events == ['close']
    assert 'ValueError: no' in caplog.text


def test_close_may_be_called_twice_and_nothing_runs_afterwards(loop):
    called = []
    loop.close()
    loop.close()
    loop.door(lambda: called.append(1))
    loop.wake()
    loop.stop()
    loop.turn(None)
    loop.run()
    assert called == []


def test_close_from_within_ends_the_turn(virtual_loop, pair, other_pair):
    loop = virtual_loop
    events = []
    loop.call_later(0, lambda: events.append('timer'))
    for number, (sock, _) in enumerate((pair, other_pair)):
        Recorder(loop, sock, events, f'{number} ', on_read=loop.close).open(READ)
    loop.runtime.poller.ready.append([(pair[0].fileno(), READ), (other_pair[0].fileno(), READ)])
    loop.run()
    assert events == ['0 read', '0 close', '1 close']


def test_close_leaves_no_descriptor(loop, pair):
    descriptors = len(os.listdir('/proc/self/fd'))
    other = Loop(loop.runtime)
    other.turn(0)
    other.close()
    assert len(os.listdir('/proc/self/fd')) == descriptors


def test_repr_shows_how_much_there_is_to_do(loop, pair):
    Recorder(loop, pair[0]).open()
    loop.call_later(60, lambda: None)
    assert repr(loop) == '<Loop 1 dispatchers, 1 timers>'
    loop.close()
    assert repr(loop) == '<Loop 0 dispatchers, 1 timers, closed>'


def test_interrupt_in_a_callback_leaves_the_others_for_the_next_turn(loop):
    """The user pressed Ctrl-C; an application that turns the loop itself may go on."""
    called = []

    def interrupt():
        raise KeyboardInterrupt

    loop.door(interrupt)
    loop.door(lambda: called.append('door'))
    loop.call_later(0, interrupt)
    loop.call_later(0, lambda: called.append('timer'))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            loop.turn(0)
    loop.turn(0)
    assert called == ['door', 'timer']
    assert not loop.in_loop_thread()


# ---- in line ------------------------------------------------------------------------------------

def test_those_in_line_are_called_one_a_turn_and_nobody_waits_for_events_meanwhile(loop):
    """S11."""
    called = []
    for name in 'ab':
        loop.in_line(lambda name=name: called.append(name))
    loop.turn(None)
    assert called == ['a']
    loop.turn(None)
    assert called == ['a', 'b']
    loop.turn(0)
    assert called == ['a', 'b']


def test_whoever_is_ready_comes_before_the_next_in_line(loop, pair):
    """S11: also one who gets in line again and again."""
    events = []

    def again():
        events.append('part')
        loop.in_line(again)

    Recorder(loop, pair[0], events, on_read=lambda: pair[0].recv(1)).open(READ)
    loop.in_line(again)
    for _ in range(3):
        pair[1].send(b'x')
        loop.turn(None)
    assert events == ['read', 'part'] * 3


def test_an_error_in_line_is_logged_and_the_others_go_on(loop, caplog):
    called = []
    loop.in_line(lambda: 1 // 0)
    loop.in_line(lambda: called.append(1))
    loop.turn(0)
    loop.turn(0)
    assert called == [1]
    assert 'a callback of the event loop failed' in caplog.text


def test_a_child_drops_its_copies_and_the_parent_goes_on(loop, pair, other_pair):
    """N10: handlers of the child hear nothing, and nothing is called there that the parent had in hand."""
    reading = Recorder(loop, pair[0])
    reading.open(READ)
    loop.door(lambda: reading.note('called'))

    def child():
        loop.orphan()
        loop.turn(0)
        loop.close()
        return f'{reading.closed} {len(loop)} {reading.events}'

    assert told_by_child(child) == 'True 0 []'
    pair[1].send(b'x')
    loop.turn(0)
    assert sorted(reading.events) == ['called', 'read']


@pytest.mark.parametrize('what', ['a callback', 'one in line'])
def test_whoever_closes_the_loop_ends_the_turn(loop, pair, what):
    """N12: no timer rings any more."""
    called = []
    (loop.door if what == 'a callback' else loop.in_line)(loop.close)
    loop.call_later(0, lambda: called.append('timer'))
    loop.turn(0)
    assert called == []
