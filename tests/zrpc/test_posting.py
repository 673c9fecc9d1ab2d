"""Calls of many threads on a busy connection leave together, and none of them is forgotten."""
from __future__ import annotations

import threading

import pytest

from tests.support import inside
from tests.zrpc.helpers import OID, TID, Background
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.role import HOT_AFTER
from zeo_clone.zrpc.channel.sending import TOGETHER


@pytest.fixture
def busy(connect):
    """A hot connection whose reply to one thread has come, which does not know it yet; both."""
    connection = connect(threaded=False)
    inside.role(connection.channel).hot = True
    sleeper = PendingCall(threading.Lock())
    sleeper.done = True
    connection.channel.sender.woken.add(sleeper)
    return connection, sleeper


def posted(connection):
    """A call that was made, but not sent."""
    sent = connection.channel.transport.sent
    call = connection.leader(len(connection.channel.sender.outbox))
    assert (connection.channel.transport.sent, len(connection.channel.sender.outbox)) == (sent, 1)
    return call


def answer(connection, call):
    request = connection.server.call()
    connection.server.reply(request, 'fine')
    assert call.result() == 'fine'


def test_last_of_the_woken_threads_sends_what_waits(busy):
    connection, sleeper = busy
    call = posted(connection)
    connection.channel._leave(sleeper)
    answer(connection, call)


def test_a_thread_that_never_says_that_it_is_awake_holds_nobody_up(busy):
    """A signal may have ended its wait just then.  The loop looks after it."""
    connection, _ = busy
    call = posted(connection)
    inside.role(connection.channel)._look_at_calls()
    answer(connection, call)
    assert not connection.channel.sender.woken


def test_several_calls_leave_with_the_one_that_makes_them_enough(busy):
    connection, _ = busy
    calls = [posted(connection)]
    calls += [connection.follower(number) for number in range(1, TOGETHER)]
    assert not connection.channel.sender.outbox
    for number in range(TOGETHER):
        connection.server.reply(connection.server.call(), number)
    assert sorted(call.result() for call in calls) == list(range(TOGETHER))


def test_what_need_not_wait_takes_with_it_what_waits(busy):
    connection, _ = busy
    call = posted(connection)
    connection.channel.send('hurry', (), flush=True)
    assert {connection.server.call().name for _ in range(2)} == {'ping', 'hurry'}
    connection.close()
    with pytest.raises(ClientDisconnected):
        call.result()


def test_what_is_collected_does_not_overtake_what_waits(busy):
    """A signal may have ended a thread's call that waits to be sent: its next ones come after it."""
    connection, _ = busy
    call = posted(connection)
    connection.channel.send('first', ())
    connection.channel.store(OID, TID, b'second', 1)
    connection.channel.send('third', (), flush=True)
    requests = [connection.server.call() for _ in range(4)]
    assert [request.name for request in requests] == ['ping', 'first', 'storea', 'third']
    connection.server.reply(requests[0])
    call.result()


def test_a_call_leaves_although_the_socket_was_full_when_another_thread_sent_it(connect):
    """C16: that thread has collected more, and may not send anything for long."""
    connection = connect()
    inside.role(connection.channel).hot = True
    sleeper = PendingCall(threading.Lock())
    sleeper.done = True
    connection.channel.sender.woken.add(sleeper)
    connection.channel.send('large', (bytes(2 << 20),))
    assert connection.channel.transport.queued
    call = connection.leader()
    connection.channel.send('small', ())
    assert connection.server.call().name == 'large'
    answer(connection, call)


def test_a_call_that_waits_to_be_sent_ends_with_the_connection(busy):
    """C16: nobody waits for ever."""
    connection, sleeper = busy
    call = posted(connection)
    connection.server.close()
    with pytest.raises(ClientDisconnected):
        call.result()
    with pytest.raises(ClientDisconnected):
        connection.channel.call('ping', ())
    connection.channel._leave(sleeper)  # does not send to a closed socket


def test_many_threads_get_each_their_own_answer(connect):
    """Calls, and answers in bursts of all sizes; the connection becomes hot on the way."""
    connection = connect()
    threads, calls = 8, 4 * HOT_AFTER
    ready = threading.Barrier(threads)

    def work(number):
        ready.wait()
        return [connection.channel.call('ping', (number, turn)) for turn in range(calls)]

    workers = [Background(work, number) for number in range(threads)]
    for _ in range(threads * calls):
        request = connection.server.call()
        connection.server.reply(request, request.args)
    for number, worker in enumerate(workers):
        assert worker.result() == [(number, turn) for turn in range(calls)]
    assert not connection.channel.sender.outbox and not connection.channel.sender.woken
