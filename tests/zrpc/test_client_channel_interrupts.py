"""Ctrl-C, or another exception of a signal's handler, in the midst of it; see test_client_channel.py."""
from __future__ import annotations

import signal
import threading

import pytest

from tests.support import inside
from tests.zrpc.helpers import BIG, Background, assert_disconnected
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.poller import READ


class Interrupter:
    """Raises KeyboardInterrupt in the main thread once, when told to."""

    def __init__(self):
        self.raised = threading.Event()
        self._before = signal.signal(signal.SIGUSR1, self._handle)

    def _handle(self, number, stack):
        if not self.raised.is_set():
            self.raised.set()
            raise KeyboardInterrupt

    def interrupt(self):
        # A signal that comes just before a system call does not interrupt it; then another one will.
        while not self.raised.wait(0.01):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def close(self):
        signal.signal(signal.SIGUSR1, self._before)


@pytest.fixture
def interrupter():
    interrupter = Interrupter()
    yield interrupter
    interrupter.close()


def assert_usable(connection):
    call = connection.call('after')
    connection.server.reply(connection.server.call(), 'answer')
    assert call.result() == 'answer'
    assert connection.notes.lost == []


def test_interrupted_leader_passes_the_role_on_and_its_reply_is_still_processed(either, interrupter):
    effects = []
    follower = []

    def meanwhile():
        assert either.runtime.reader() == threading.main_thread().ident
        follower.append(either.follower('follower'))
        interrupter.interrupt()

    background = Background(meanwhile)
    with pytest.raises(KeyboardInterrupt):
        either.channel.call('ping', ('leader',), effects.append)
    background.result()
    assert either.runtime.reader() == follower[0].ident
    requests = either.server.calls(2)
    either.server.reply(requests['leader'], 'effect')
    either.server.reply(requests['follower'], 'answer')
    assert follower[0].result() == 'answer'
    assert effects == ['effect']
    assert_usable(either)


def test_interrupted_leader_without_followers_gives_the_role_back_to_the_loop(connect, interrupter):
    connection = connect()
    background = Background(lambda: (connection.runtime.reader(), interrupter.interrupt()))
    with pytest.raises(KeyboardInterrupt):
        connection.channel.call('ping', (1,))
    background.result()
    connection.server.reply(connection.server.call())
    connection.server.notify(2)
    assert connection.notes.notice() == ('notice', (2,), connection.loop_thread.ident)
    assert_usable(connection)


def test_interrupted_follower_leaves_the_queue(either, interrupter):
    leader = either.leader('leader')
    background = Background(lambda: (either.runtime.follower(), interrupter.interrupt()))
    with pytest.raises(KeyboardInterrupt):
        either.channel.call('ping', ('interrupted',))
    background.result()
    last = either.follower('last')
    requests = either.server.calls(3)
    either.server.reply(requests['leader'], 'leader')
    assert leader.result() == 'leader'
    assert either.runtime.reader() == last.ident  # not the one that has gone
    either.server.reply(requests['interrupted'])
    either.server.reply(requests['last'], 'last')
    assert last.result() == 'last'
    assert_usable(either)


@pytest.mark.parametrize('acquired', [True, False])
def test_follower_interrupted_just_when_it_is_given_the_role_passes_it_on(either, acquired):
    """The signal may come before or after the thread has acquired its lock."""
    leader = either.leader('leader')
    lock = either.runtime.lock

    def treacherous_lock():
        wakeup = lock()
        acquire = wakeup.acquire

        def acquire_and_interrupt():
            acquire()
            if either.runtime.lock is lock:  # not the first time
                if not acquired:
                    wakeup.release()
                raise KeyboardInterrupt
            either.runtime.lock = lock

        wakeup.acquire = acquire_and_interrupt
        return wakeup

    either.runtime.lock = treacherous_lock
    interrupted = either.follower('interrupted')
    last = either.follower('last')
    requests = either.server.calls(3)
    either.server.reply(requests['leader'])
    leader.result()
    with pytest.raises(KeyboardInterrupt):
        interrupted.result()
    assert either.runtime.reader() == last.ident
    either.server.reply(requests['interrupted'])
    either.server.reply(requests['last'], 'last')
    assert last.result() == 'last'
    assert_usable(either)


def test_interrupt_in_a_callback_drops_the_connection(either):
    """C17: the effects of the message may be half done."""
    def on_reply(value):
        raise KeyboardInterrupt

    call = either.leader(1, on_reply=on_reply)
    other = either.follower(2)
    either.server.reply(either.server.calls(2)[1])
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert_disconnected([other], 'KeyboardInterrupt')


def test_another_thread_s_caller_gets_no_exception_of_a_signal(either):
    """C16: its call was lost with the connection; the exception belongs to the thread of the handler."""
    def on_reply(value):
        raise KeyboardInterrupt

    leader = either.leader(1)
    follower = either.follower(2, on_reply=on_reply)
    either.server.reply(either.server.calls(2)[2])
    with pytest.raises(KeyboardInterrupt):
        leader.result()
    assert_disconnected([follower], 'KeyboardInterrupt')


def test_another_thread_s_caller_gets_what_was_wrong_with_its_reply(either):
    """C8: as if it had read the reply itself; an error of tpc_finish's callback, above all."""
    def on_reply(value):
        raise ValueError('no good')

    leader = either.leader(1)
    follower = either.follower(2, on_reply=on_reply)
    either.server.reply(either.server.calls(2)[2])
    with pytest.raises(ValueError, match='no good'):
        follower.result()
    assert_disconnected([leader], 'no good')


@pytest.mark.parametrize('own', [True, False])
def test_it_is_ended_before_the_call_fails_whose_reply_was_bad(either, own):
    """C13, C17: whoever catches the error must not meet what was true of the old connection."""
    order = []
    either.notes.handle_lost = lambda error: order.append('handler')

    def on_reply(value):
        raise ValueError('no good')

    leader = either.leader(1, on_reply=on_reply if own else None)
    follower = either.follower(2, on_reply=on_reply)
    bad = leader if own else follower
    finish = inside.role(either.channel).finish
    inside.role(either.channel).finish = lambda pending: (order.append('call'), finish(pending))
    either.server.reply(either.server.calls(2)[1 if own else 2])
    with pytest.raises(ValueError, match='no good'):
        bad.result()
    assert_disconnected([follower if own else leader], 'no good')
    assert order == ['handler', 'call', 'call']


@pytest.mark.parametrize('interrupts', [1, 2, 15])
@pytest.mark.parametrize('early', [True, False])
@pytest.mark.parametrize('step', ['unregister', 'close', 'handle_lost', 'abandon', 'finish'])
def test_interrupts_while_it_is_ended_leave_nothing_undone(either, step, early, interrupts, monkeypatch):
    """C16: each of its steps is done again."""
    raised, lost = [], []
    either.notes.handle_lost = lost.append
    place = {'unregister': either.loop, 'handle_lost': either.notes,
             'abandon': either.channel.core, 'finish': inside.role(either.channel)}.get(step, either.channel)
    original = getattr(place, step)

    def interrupted(*args):
        found = original(*args) if not early or len(raised) >= interrupts else None
        if len(raised) < interrupts:
            raised.append(step)
            raise KeyboardInterrupt
        return found

    leader = either.leader(1)
    followers = [either.follower(2), either.follower(3)]
    either.server.calls(3)
    monkeypatch.setattr(place, step, interrupted)
    either.server.close()
    with pytest.raises(KeyboardInterrupt):
        leader.result()
    assert_disconnected(followers, 'lost')
    assert len(raised) == (3 if step == 'finish' and not early and interrupts > 3 else interrupts)
    assert lost
    assert either.channel.closed
    assert either.channel.socket.fileno() == -1
    assert either.channel.buried.is_set()


def once_interrupted(function, when=lambda *args: True):
    """`function`, but a signal's exception comes instead of the first call for which `when` is true."""
    raised = []

    def interrupted(*args):
        if not raised and when(*args):
            raised.append(args)
            raise KeyboardInterrupt
        return function(*args)
    return interrupted


def test_interrupt_while_the_end_of_a_call_closes_the_connection_once_more(either):
    """C16: whoever ends it comes again, and does not wait for itself."""
    channel = either.channel

    def on_done(call):
        inside.role(channel).take = once_interrupted(inside.role(channel).take)
        channel.abort(TimeoutError('no good'))

    channel.call_async('ping', (0,), on_done)
    leader = either.leader(1)
    follower = either.follower(2)
    either.server.calls(3)
    either.server.close()
    with pytest.raises(KeyboardInterrupt):
        leader.result()
    assert_disconnected([follower], 'lost')
    assert channel.buried.is_set()


def test_interrupt_while_the_loop_takes_the_reader_s_role_leaves_it_free(connect):
    connection = connect(False)
    channel = connection.channel
    inside.role(channel)._poll = once_interrupted(inside.role(channel)._poll)
    connection.server.notify(1)
    with pytest.raises(KeyboardInterrupt):
        connection.loop.turn(None)
    call = connection.call(2)
    connection.server.reply(connection.server.call(), 'answer')
    assert call.result() == 'answer'
    assert connection.notes.notice()[1] == (1,)


def test_interrupt_while_the_loop_is_to_read_again_leaves_it_reading(connect):
    connection = connect()
    connection.loop.set_interest = once_interrupted(
        connection.loop.set_interest,
        lambda fd, mask: mask == READ and threading.current_thread() is threading.main_thread())
    background = Background(lambda: connection.server.reply(connection.server.call(), 'answer'))
    with pytest.raises(KeyboardInterrupt):
        connection.channel.call('ping', (1,))
    background.result()
    connection.server.notify(2)
    assert connection.notes.notice() == ('notice', (2,), connection.loop_thread.ident)


def test_an_ordinary_exception_of_a_signal_at_the_end_leaves_nobody_waiting(either):
    """C16: it is told from a failing end of a call."""
    finish, raised = inside.role(either.channel).finish, []

    def interrupted(pending):
        if not raised:
            raised.append(TimeoutError('a signal came'))
            raise raised[0]
        finish(pending)

    leader = either.leader(1)
    followers = [either.follower(2), either.follower(3)]
    either.server.calls(3)
    inside.role(either.channel).finish = interrupted
    either.server.close()
    with pytest.raises(TimeoutError, match='a signal came'):
        leader.result()
    assert_disconnected(followers, 'lost')


def test_interrupt_while_a_sender_takes_the_reader_s_role_leaves_it_free(connect):
    connection = connect()
    role = inside.role(connection.channel)
    poll, interrupted = role._poll, []

    def treacherous():
        poll()
        if not interrupted and threading.current_thread() is threading.main_thread() \
                and role.holder is not None:
            interrupted.append(role.holder)
            raise KeyboardInterrupt

    role._poll = treacherous
    with pytest.raises(KeyboardInterrupt):
        connection.channel.call('ping', (BIG,))
    assert str(interrupted[0]) == 'a thread that sends'
    other = connection.call(2)
    requests = [connection.server.call() for _ in range(2)]
    connection.server.reply(requests[1], 'answer')
    assert other.result() == 'answer'


def test_further_exceptions_while_it_leaves_change_nothing(connect, interrupter):
    connection = connect()
    leave, left, follower = connection.channel._leave, [], []

    def treacherous(pending):
        left.append(pending)
        if len(left) < 15:
            raise KeyboardInterrupt
        leave(pending)

    def meanwhile():
        connection.runtime.reader()
        follower.append(connection.follower('follower'))
        connection.channel._leave = treacherous
        interrupter.interrupt()

    background = Background(meanwhile)
    with pytest.raises(KeyboardInterrupt):
        connection.channel.call('ping', ('leader',))
    background.result()
    assert connection.runtime.reader() == follower[0].ident
    connection.server.reply(connection.server.calls(2)['follower'], 'answer')
    assert follower[0].result() == 'answer'


def test_interrupt_between_receiving_and_processing_drops_the_connection(either):
    """C17: an invalidation that was received and lost would leave stale data in the cache."""
    receive = either.channel.transport.receive

    def receive_and_interrupt(in_bulk):
        assert receive(in_bulk)
        raise KeyboardInterrupt

    call = either.leader(1)
    other = either.follower(2)
    requests = either.server.calls(2)
    either.channel.transport.receive = receive_and_interrupt
    either.server.reply(requests[1])
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert_disconnected([other], 'KeyboardInterrupt')
    assert either.channel.closed


@pytest.mark.parametrize('use', [
    lambda channel: channel.call('ping', (1,)),
    lambda channel: channel.send('note', (1,), flush=True),
], ids=['call', 'flush'])
def test_interrupt_while_sending_drops_the_connection(connect, use):
    """Nobody knows how much of the message is under way; the next one would be taken for its rest."""
    connection = connect()
    other = connection.leader(2)
    send = connection.channel.transport.socket.send

    class Treacherous:
        def __init__(self, sock):
            self.sock = sock

        def __getattr__(self, name):
            return getattr(self.sock, name)

        def send(self, data):
            send(data[:5])
            raise KeyboardInterrupt

    connection.channel.transport.socket = Treacherous(connection.channel.transport.socket)
    with pytest.raises(KeyboardInterrupt):
        use(connection.channel)
    with pytest.raises(ClientDisconnected, match='interrupted'):
        connection.channel.call('ping', (3,))
    assert_disconnected([other], 'interrupted')


def test_interrupt_while_waiting_for_the_socket_leaves_the_rest_to_the_loop(connect, interrupter):
    connection = connect()
    background = Background(lambda: (connection.runtime.reader(), interrupter.interrupt()))
    with pytest.raises(KeyboardInterrupt):
        connection.channel.call('ping', (BIG,))
    background.result()
    connection.server.reply(connection.server.call())
    assert_usable(connection)
