"""What a client's channel sends, and when; see test_client_channel.py."""
from __future__ import annotations

import os

import pytest

from tests.support import inside
from tests.zrpc.helpers import (
    BIG,
    PATIENCE_S,
    Background,
    Connection,
    WatchingRuntime,
    assert_disconnected,
)
from zeo_clone.loop.poller import READ, WRITE
from zeo_clone.zrpc.channel.sending import COLLECT_SIZE, HIGH_WATER
from zeo_clone.zrpc.frames import frame


@pytest.mark.parametrize('calls', [1, 3])
def test_large_call_to_a_server_that_does_not_read_until_it_has_sent_does_not_hang(either, calls):
    """Both directions are full: whoever sends has to read meanwhile."""
    notices = 200

    def serve():
        for number in range(notices):
            either.server.notify(number, bytes(50_000))
        for _ in range(calls):
            call = either.server.call()
            either.server.reply(call, len(call.args[0]))

    server = Background(serve)
    for call in [either.call(BIG) for _ in range(calls)]:
        assert call.result() == len(BIG)
    server.result()
    assert [either.notes.notice()[1][0] for _ in range(notices)] == list(range(notices))


def test_large_one_way_call_to_a_server_that_does_not_read_until_it_has_sent_does_not_hang(either):
    def serve():
        for number in range(200):
            either.server.notify(number, bytes(50_000))
        return [len(either.server.call().args[0]) for _ in range(3)]

    server = Background(serve)
    for _ in range(3):
        either.channel.send('store', (BIG,), flush=True)
    assert server.result() == [len(BIG)] * 3


def test_large_messages_are_read_in_large_pieces(either):
    """B9.  Small ones are not: the server has others to serve meanwhile."""
    bulk = []
    receive = either.channel.transport.receive

    def noting(in_bulk):
        data = receive(in_bulk)
        if data:
            bulk.append(in_bulk)
        return data

    either.channel.transport.receive = noting
    for value, some in (b'small', {False}), (BIG, {False, True}), (b'small', {False}):
        bulk.clear()
        call = either.call()
        either.server.reply(either.server.call(), value)
        assert call.result() == value
        assert (set(bulk), bulk[0]) == (some, False)


def nothing_arrived(server):
    server.socket.settimeout(0)
    try:
        with pytest.raises(BlockingIOError):
            server.socket.recv(1)
    finally:
        server.socket.settimeout(PATIENCE_S)
    return True


def test_one_way_calls_leave_with_the_next_call_in_their_order(either):
    for number in range(3):
        either.channel.send('store', (number,))
    assert nothing_arrived(either.server)
    call = either.call('vote')
    requests = [either.server.call() for _ in range(4)]
    assert [(request.args[0], request.oneway) for request in requests] == [
        (0, True), (1, True), (2, True), ('vote', False)]
    either.server.reply(requests[3])
    call.result()


def test_one_way_call_leaves_at_once_if_asked_to(either):
    either.channel.send('store', (0,))
    either.channel.send('store', (1,), flush=True)
    assert [either.server.call().args[0] for _ in range(2)] == [0, 1]


def test_one_way_calls_that_are_many_leave_by_themselves(either):
    data = bytes(1000)
    for _ in range(COLLECT_SIZE // 1000 + 1):
        either.channel.send('store', (data,))
    assert either.server.call().args == (data,)


def test_sender_of_one_way_calls_waits_while_too_much_waits_for_the_socket(connect):
    connection = connect()
    sender = Background(lambda: [connection.channel.send('store', (bytes(1 << 20),)) for _ in range(20)])
    assert connection.runtime.reader() == sender.ident  # it waits for the socket, too
    assert connection.channel.transport.queued <= HIGH_WATER + (2 << 20)
    for _ in range(20 - HIGH_WATER // (1 << 20)):
        connection.server.call()
    sender.result()
    assert connection.channel.transport.queued <= HIGH_WATER


def test_what_an_asynchronous_send_could_not_place_is_sent_by_the_loop(connect):
    connection = connect()
    connection.channel.send_async(connection.channel.core.send_oneway('store', (BIG,)))
    assert connection.server.call().args == (BIG,)
    with connection.channel.sender.lock:  # the loop has counted what it sent
        assert connection.channel.transport.queued == 0


def test_loop_stops_asking_for_writability_when_all_is_sent(connect):
    connection = connect(threaded=False)
    connection.channel.send_async(connection.channel.core.send_oneway('store', (BIG,)))
    masks = connection.loop.poller._masks
    assert masks[connection.channel.fd] == READ | WRITE
    server = Background(connection.server.call)
    while masks[connection.channel.fd] & WRITE:
        connection.loop.turn(None)
    assert server.result().args == (BIG,)


def test_output_queued_just_when_the_loop_has_sent_all_is_not_forgotten(connect):
    """Between the loop's look at the queue and its giving up of WRITE another thread may queue more."""
    connection = connect(threaded=False)
    channel = connection.channel
    data = channel.core.send_oneway('store', (BIG,))
    channel.sender.lock.on_exit = lambda: channel.send_async(data)
    channel.handle_write()
    assert channel.transport.queued
    assert connection.loop.poller._masks[channel.fd] == READ | WRITE


def test_connection_that_sent_before_it_was_started_leaves_nothing_in_the_poller():
    """The next connection will have the same descriptor."""
    connection = Connection(WatchingRuntime(), threaded=False)
    channel = connection.channel
    channel.send_async(frame(BIG))
    assert channel.transport.queued
    connection.close()
    assert connection.channel.closed
    assert channel.fd not in connection.loop.poller._masks


def test_interest_changed_while_the_connection_is_closed_leaves_nothing_in_the_poller(connect):
    """Else a later connection with the same descriptor would wait for ever."""
    connection = connect(threaded=False)
    channel, loop = connection.channel, connection.loop
    set_interest = loop.set_interest
    call = connection.leader(1)

    def close_meanwhile(fd, mask):  # by the reader, while another thread is in the middle of `_poll`
        connection.server.close()
        while not (channel.closed or inside.role(channel).lock.wanted):
            os.sched_yield()
        set_interest(fd, mask)

    loop.set_interest = close_meanwhile
    channel.want_write(True)
    assert_disconnected([call], 'the connection was lost')
    assert channel.closed
    assert channel.fd not in loop.poller._masks
