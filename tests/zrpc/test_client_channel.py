"""A client's channel against a fake server.  The test's own thread is the server; callers are threads.

Nothing here waits for time to pass: the runtime tells who has become the reader and who sleeps.
"""
from __future__ import annotations

import queue
import random
import sys
import threading

import pytest

from tests.support import inside
from tests.zrpc.helpers import OID, PATIENCE_S, TID, Background
from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError
from zeo_clone.zrpc.channel.calls import ConnectionLost, Joinable, PendingCall
from zeo_clone.zrpc.channel.role import HOT_AFTER

# ---- calls and replies ---------------------------------------------------------------------------

def test_call_returns_what_the_server_answers(either):
    call = either.call('question')
    request = either.server.call()
    assert (request.name, request.args, request.oneway) == ('ping', ('question',), False)
    either.server.reply(request, 'answer')
    assert call.result() == 'answer'


def test_load_returns_what_on_reply_makes_of_the_revision(either):
    call = Background(either.channel.load, OID, TID, lambda revision: ('seen', revision))
    request = either.server.call()
    assert (request.name, request.args) == ('loadBefore', (OID, TID))
    either.server.socket.sendall(either.server.core.send_loaded(request.id, (b'data', TID, None)))
    assert call.result() == ('seen', (b'data', TID, None))


def test_error_of_the_server_is_raised_and_the_connection_goes_on(either):
    call = either.call('question')
    either.server.socket.sendall(either.server.core.send_error(either.server.call().id, KeyError('a')))
    with pytest.raises(KeyError, match='a'):
        call.result()
    again = either.call('again')
    either.server.reply(either.server.call(), 'answer')
    assert again.result() == 'answer'


def test_replies_out_of_order_reach_the_right_threads(either):
    calls = [either.call(number) for number in range(8)]
    requests = either.server.calls(8)
    for number in (3, 7, 0, 5, 1, 6, 2, 4):
        either.server.reply(requests[number], number * 10)
    assert [call.result() for call in calls] == [number * 10 for number in range(8)]


def test_call_that_cannot_be_encoded_is_refused_and_the_connection_goes_on(either):
    with pytest.raises(TypeError, match='cannot encode'):
        either.channel.call('ping', (object(),))
    call = either.call('question')
    either.server.reply(either.server.call(), 'answer')
    assert call.result() == 'answer'


def test_asynchronous_call_tells_its_end_in_the_reader_s_role(connect):
    connection = connect()
    done = queue.Queue()
    connection.channel.call_async('ping', (1,), lambda call: done.put((call, threading.get_ident())),
                                  lambda value: value + 1)
    connection.server.reply(connection.server.call(), 10)
    call, ident = done.get(timeout=PATIENCE_S)
    assert (call.done, call.value, call.error, ident) == (True, 11, None, connection.loop_thread.ident)


def test_work_is_done_while_the_server_works(either):
    def work():
        call = either.server.call()
        either.server.reply(call, 10)

    assert either.channel.call_and(work, 'ping', (1,), lambda value: value + 1) == 11


def test_work_that_fails_is_an_error_and_the_reply_is_processed_all_the_same(either):
    replies = []

    def work():
        raise ValueError('no good')

    with pytest.raises(ValueError, match='no good'):
        either.channel.call_and(work, 'ping', (1,), replies.append)
    either.server.reply(either.server.call(), 10)
    after = either.call(2)
    either.server.reply(either.server.call())
    after.result()
    assert replies == [10]


def test_a_connection_that_is_lost_during_the_work_is_an_error(either):
    """C16."""
    def work():
        either.server.call()
        either.server.close()

    with pytest.raises(ClientDisconnected):
        either.channel.call_and(work, 'ping', (1,), lambda value: value)
    with pytest.raises(ClientDisconnected):
        either.channel.call_and(work, 'ping', (1,), lambda value: value)


class Load(Joinable):
    """Keeps its answer."""

    def take(self, value):
        if value == 'no good':
            raise ValueError(value)
        self.value = value


def burst(channel, oids):
    """Loads of `oids` that nobody waits for; the calls."""
    calls = [Load() for _ in oids]
    channel.send_loads([channel.start_load(oid, TID, call) for oid, call in zip(oids, calls, strict=True)])
    return calls


def test_burst_of_loads_is_answered_and_can_be_joined_by_several_threads(either):
    one, two = burst(either.channel, [OID, b'2' * 8])
    leader = Background(either.channel.join, one)
    assert either.runtime.reader() == leader.ident
    follower = Background(either.channel.join, one)
    assert either.runtime.follower() == follower.ident
    requests = [either.server.call() for _ in range(2)]
    assert [request.args for request in requests] == [(OID, TID), (b'2' * 8, TID)]
    assert requests[0].name == 'loadBefore'
    either.server.reply(requests[0], (b'data', TID, None))
    leader.result()
    follower.result()
    assert (one.done, one.value, two.done) == (True, (b'data', TID, None), False)
    either.channel.join(one)  # at once
    either.server.reply(requests[1], None)
    either.channel.join(two)
    assert two.value is None


def test_joining_ends_with_the_connection(either):
    call, = burst(either.channel, [OID])
    leader = Background(either.channel.join, call)
    assert either.runtime.reader() == leader.ident
    either.server.close()
    leader.result()
    with pytest.raises(ConnectionLost):
        call.result()
    either.channel.join(call)  # at once: it is done
    with pytest.raises(ClientDisconnected):
        either.channel.join(Load())


def test_joining_ends_when_the_call_is_given_up(either):
    """C16: of a thread that could not send it, say."""
    call, = burst(either.channel, [OID])
    leader = Background(either.channel.join, call)
    assert either.runtime.reader() == leader.ident
    follower = Background(either.channel.join, call)
    assert either.runtime.follower() == follower.ident
    call.finish()
    follower.result()
    either.server.reply(either.server.call(), (b'data', TID, None))
    leader.result()
    assert call.value == (b'data', TID, None)


def test_a_call_is_given_up_just_when_one_who_joined_it_becomes_the_reader():
    """C16: that one was woken for it, and once is enough."""
    one, other = (PendingCall(threading.Lock()) for _ in range(2))
    other.wakeup.acquire()
    call = Load()
    call.joined = [other, one]
    call.finish()
    assert (one.done, other.done, other.wakeup.locked()) == (True, True, False)


def test_joining_ends_although_the_reply_is_refused(either):
    """C17."""
    call, = burst(either.channel, [OID])
    leader = Background(either.channel.join, call)
    assert either.runtime.reader() == leader.ident
    either.server.reply(either.server.call(), 'no good')
    leader.result()
    assert str(either.lost_by()) == 'no good'


def test_a_caller_whose_reply_was_taken_but_not_processed_hears_of_the_end(either):
    """C17: a signal's exception may come between any two steps of the thread that reads."""
    class Signal(BaseException):
        pass

    def interrupted(event):
        raise Signal

    leader = either.leader('leader')
    follower = either.follower('follower')
    either.channel._process = interrupted
    calls = either.server.calls(2)
    either.server.reply(calls['follower'])
    with pytest.raises(Signal):
        leader.result()
    with pytest.raises(ConnectionLost):
        follower.result()


def test_the_role_goes_on_although_a_signal_came_while_it_was_passed_on(either):
    """The exception ends the caller's thread, but the others are read for."""
    class Signal(BaseException):
        pass

    leader = either.leader('leader')
    follower = either.follower('follower')
    appoint, signals = inside.role(either.channel)._appoint, [Signal()]

    def interrupted():
        if signals:
            raise signals.pop()
        appoint()

    inside.role(either.channel)._appoint = interrupted
    calls = either.server.calls(2)
    either.server.reply(calls['leader'])
    with pytest.raises(Signal):
        leader.result()
    either.server.reply(calls['follower'], 2)
    assert follower.result() == 2


def test_time_of_the_last_input_is_noted(connect):
    connection = connect(threaded=False)
    connection.runtime.monotonic = lambda: 12345.0
    connection.server.notify(1)
    connection.loop.turn(None)
    assert connection.channel.last_received == 12345.0


# ---- who reads -----------------------------------------------------------------------------------

def note_thread(idents):
    def on_reply(value):
        idents.append(threading.get_ident())
        return value
    return on_reply


def test_waiting_caller_reads_itself(either):
    idents = []
    call = either.leader(1, on_reply=note_thread(idents))
    either.server.reply(either.server.call())
    call.result()
    assert idents == [call.ident]


def test_leader_processes_the_replies_of_the_others(either):
    idents = []
    leader = either.leader('leader')
    follower = either.follower('follower', on_reply=note_thread(idents))
    requests = either.server.calls(2)
    either.server.reply(requests['follower'], 'for the follower')
    assert follower.result() == 'for the follower'  # while the leader still waits
    assert idents == [leader.ident]
    either.server.reply(requests['leader'], 'for the leader')
    assert leader.result() == 'for the leader'


def test_role_passes_to_a_follower_when_the_leader_s_reply_has_come(either):
    idents = []
    leader = either.leader('leader')
    first = either.follower('first', on_reply=note_thread(idents))
    second = either.follower('second', on_reply=note_thread(idents))
    requests = either.server.calls(3)
    either.server.reply(requests['leader'])
    leader.result()
    assert either.runtime.reader() == first.ident
    either.server.reply(requests['first'])
    first.result()
    assert either.runtime.reader() == second.ident
    either.server.reply(requests['second'])
    second.result()
    assert idents == [first.ident, second.ident]


def test_role_is_not_passed_to_a_follower_whose_reply_has_come(either):
    leader = either.leader('leader')
    first, second = either.follower('first'), either.follower('second')
    requests = either.server.calls(3)
    either.server.socket.sendall(either.server.core.send_reply(requests['first'].id, 1)
                                 + either.server.core.send_reply(requests['leader'].id, 0))
    assert (leader.result(), first.result()) == (0, 1)
    assert either.runtime.reader() == second.ident
    either.server.reply(requests['second'], 2)
    assert second.result() == 2


def test_notice_that_comes_while_a_caller_waits_is_handled_by_the_caller(either):
    leader = either.leader('leader')
    either.server.notify(1)
    assert either.notes.notice() == ('notice', (1,), leader.ident)
    either.server.reply(either.server.call())
    leader.result()


def test_role_returns_to_the_loop_when_nobody_waits(connect):
    connection = connect()
    call = connection.leader(1)
    connection.server.reply(connection.server.call())
    call.result()
    connection.server.notify(2)
    assert connection.notes.notice() == ('notice', (2,), connection.loop_thread.ident)


def test_role_returns_to_the_loop_after_many_calls_one_after_the_other(connect):
    """While a connection is hot the loop does not listen between calls; when they end, it does again."""
    connection = connect()
    for number in range(3 * HOT_AFTER):
        call = connection.call(number)
        connection.server.reply(connection.server.call(), number)
        assert call.result() == number
    connection.server.notify('last')
    assert connection.notes.notice() == ('notice', ('last',), connection.loop_thread.ident)


def test_the_loop_listens_while_nothing_but_notices_comes(connect):
    """However many, they make no connection hot: who only listens is told of each as soon as it comes."""
    connection = connect()
    connection.server.notify('first')
    assert connection.notes.notice()[1] == ('first',)
    masks, set_interest = [], connection.loop.set_interest
    connection.loop.set_interest = lambda fd, mask: (masks.append(mask), set_interest(fd, mask))
    for number in range(3 * HOT_AFTER):
        connection.server.notify(number)
        assert connection.notes.notice()[1] == (number,)
    assert not masks


def test_without_a_thread_notices_are_handled_by_whoever_turns_the_loop(connect):
    connection = connect(threaded=False)
    connection.server.notify(1)
    connection.loop.turn(None)
    assert connection.notes.notice() == ('notice', (1,), threading.get_ident())


def test_without_a_thread_notices_are_handled_by_the_next_call(connect):
    connection = connect(threaded=False)
    connection.server.notify(1)
    call = connection.leader(2)
    assert connection.notes.notice() == ('notice', (1,), call.ident)
    connection.server.reply(connection.server.call())
    call.result()


def test_caller_sleeps_while_the_loop_is_busy_with_a_message_and_reads_afterwards(connect):
    connection = connect()
    busy, go_on = threading.Event(), threading.Event()

    def handle(name, args):
        busy.set()
        assert go_on.wait(PATIENCE_S)

    connection.notes.on_notice = handle
    connection.server.notify(1)
    assert busy.wait(PATIENCE_S)
    idents = []
    call = connection.follower(2, on_reply=note_thread(idents))
    go_on.set()
    assert connection.runtime.reader() == call.ident
    connection.server.reply(connection.server.call(), 'answer')
    assert call.result() == 'answer'
    assert idents == [call.ident]


def test_reply_that_came_before_its_caller_began_to_wait_is_not_waited_for(connect):
    connection = connect()
    answered = queue.Queue()
    wait = connection.channel._wait

    def wait_later(pending):  # between sending and waiting the loop processes the reply
        answered.get(timeout=PATIENCE_S)
        wait(pending)

    connection.channel._wait = wait_later
    call = connection.call(1, on_reply=lambda value: (answered.put(1), value)[1])
    connection.server.reply(connection.server.call(), 'answer')
    assert call.result() == 'answer'


def test_messages_take_effect_in_wire_order_one_at_a_time_whoever_reads(connect):
    """C1: eight threads call, thousands of notices come in between, replies are in no order."""
    threads, each = 8, 600
    connection = connect()
    seen, readers, role = [], set(), threading.Lock()

    def process(number):
        assert role.acquire(blocking=False), 'two readers at a time'
        seen.append(number)
        readers.add(threading.get_ident())
        role.release()
        return number

    def call_often():
        # Only the order in which numbers are seen counts; each caller checks that its own one was.
        for _ in range(each):
            assert connection.channel.call('ping', (1,), process) >= 0

    def serve():
        dice, number, waiting = random.Random(7), 0, threads * each
        server = connection.server
        while waiting:
            calls = [server.call()]
            calls += [server._calls.popleft() for _ in range(len(server._calls))]
            dice.shuffle(calls)
            data = b''
            for call in calls:
                for _ in range(dice.randrange(3)):
                    data += server.core.send_oneway('notice', (number,))
                    number += 1
                data += server.core.send_reply(call.id, number)
                number += 1
            cut = dice.randrange(len(data))
            server.socket.sendall(data[:cut])
            server.socket.sendall(data[cut:])
            waiting -= len(calls)
        return number

    connection.notes.on_notice = lambda name, args: process(args[0])
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        server = Background(serve)
        for call in [Background(call_often) for _ in range(threads)]:
            call.result()
        total = server.result()
        connection.server.notify(total)
        while len(seen) <= total:
            connection.notes.notice()
    finally:
        sys.setswitchinterval(interval)
    assert seen == list(range(total + 1))
    assert len(readers) > 1
    assert connection.channel.core.pending == 0


# ---- callbacks -----------------------------------------------------------------------------------

def test_callback_cannot_wait_for_the_server(either):
    complaints = []

    def on_reply(value):
        for call in (lambda: either.channel.call('ping', (1,)),
                     lambda: either.channel.load(OID, TID, lambda revision: revision)):
            with pytest.raises(ClientStorageError, match='cannot wait for the server') as caught:
                call()
            complaints.append(caught.value)
        return value

    call = either.leader(1, on_reply=on_reply)
    either.server.reply(either.server.call(), 'answer')
    assert call.result() == 'answer'
    assert len(complaints) == 2


def test_callback_of_one_thread_does_not_keep_others_from_calling(connect):
    connection = connect()
    busy, go_on = threading.Event(), threading.Event()

    def on_reply(value):
        busy.set()
        assert go_on.wait(PATIENCE_S)
        return value

    leader = connection.leader('leader', on_reply=on_reply)
    connection.server.reply(connection.server.call())
    assert busy.wait(PATIENCE_S)
    other = connection.follower('other')
    go_on.set()
    leader.result()
    connection.server.reply(connection.server.call(), 'answer')
    assert other.result() == 'answer'


def test_callback_may_make_calls_that_it_does_not_wait_for(connect):
    connection = connect()
    done = queue.Queue()

    def on_reply(value):
        connection.channel.send('note', (1,))
        connection.channel.call_async('ping', (2,), lambda call: done.put(call.value))
        return value

    call = connection.leader('leader', on_reply=on_reply)
    connection.server.reply(connection.server.call())
    call.result()
    assert connection.server.call().name == 'note'
    connection.server.reply(connection.server.call(), 'answer')
    assert done.get(timeout=PATIENCE_S) == 'answer'
