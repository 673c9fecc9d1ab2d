"""How a client's channel ends, and what everybody is told; see test_client_channel.py."""
from __future__ import annotations

import os
import socket
import threading

import pytest

from tests.zrpc.helpers import OID, PATIENCE_S, TID, Connection, WatchingRuntime, assert_disconnected
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError
from zeo_clone.loop.transport import READ_SIZE
from zeo_clone.zrpc.channel.calls import ConnectionLost
from zeo_clone.zrpc.frames import frame
from zeo_clone.zrpc.messages import encode_reply


def three_waiting(connection, **options):
    calls = [connection.leader(0, **options), connection.follower(1), connection.follower(2)]
    return calls, connection.server.calls(3)


def test_callback_that_raises_drops_the_connection_and_fails_all_who_wait(either):
    """C17: what the message should have done is not done, so nobody may go on."""
    def on_reply(value):
        raise OSError(28, 'No space left on device')

    (first, *others), requests = three_waiting(either, on_reply=on_reply)
    either.server.reply(requests[0])
    with pytest.raises(OSError, match='No space left'):
        first.result()
    assert_disconnected(others, 'the connection was lost: .*No space left')
    assert type(either.lost_by()) is OSError
    assert either.channel.closed
    assert either.channel.fate is either.lost_by()


def test_messages_after_one_that_failed_are_not_processed(either):
    """C17."""
    def fail(name, args):
        raise ValueError('no good')

    either.notes.on_notice = fail
    call = either.leader(1)
    core = either.server.core
    either.server.socket.sendall(core.send_oneway('notice', (1,)) + core.send_oneway('notice', (2,))
                                 + core.send_reply(either.server.call().id, 'answer'))
    assert_disconnected([call], 'the connection was lost: no good')
    assert either.notes.notice()[1] == (1,)
    assert either.notes.notices.empty()


def test_notice_that_fails_in_the_loop_drops_the_connection(connect, caplog):
    """C17."""
    connection = connect(threaded=False)

    def fail(name, args):
        raise ValueError('no good')

    connection.notes.on_notice = fail
    connection.server.notify(1)
    connection.loop.turn(None)
    assert str(connection.lost_by()) == 'no good'
    assert len(connection.loop) == 0


def test_end_of_an_asynchronous_call_that_fails_drops_the_connection(connect):
    """C17."""
    connection = connect(threaded=False)

    def fail(call):
        raise ValueError('no good')

    connection.channel.call_async('ping', (1,), fail)
    connection.server.reply(connection.server.call())
    connection.loop.turn(None)
    assert str(connection.lost_by()) == 'no good'


@pytest.mark.parametrize(('data', 'complaint'), [
    (frame(b'no pickle'), 'refused'), (frame(encode_reply(99, None)), 'which does not wait'),
    (b'\xff\xff\xff\xff', 'the limit is')])
def test_bad_message_drops_the_connection_and_fails_all_who_wait(either, data, complaint):
    calls, _ = three_waiting(either)
    either.server.socket.sendall(data)
    assert_disconnected(calls, complaint)
    assert type(either.lost_by()) is ProtocolError


def test_end_of_the_stream_fails_all_who_wait(either):
    calls, _ = three_waiting(either)
    either.server.close()
    assert_disconnected(calls, 'the server closed the connection')
    assert type(either.lost_by()) is ConnectionResetError


def test_reset_fails_all_who_wait(either):
    calls = [either.leader(0), either.follower(1), either.follower(2)]
    either.server.close()  # with unread input
    assert_disconnected(calls, 'the connection was lost')
    assert type(either.lost_by()) is ConnectionResetError


def test_end_of_the_stream_is_noticed_while_nobody_waits(connect):
    connection = connect(threaded=False)
    connection.server.close()
    connection.loop.turn(None)
    assert type(connection.lost_by()) is ConnectionResetError
    with pytest.raises(ClientDisconnected, match='not connected: the server closed the connection'):
        connection.channel.call('ping', ())


def test_handler_is_told_of_the_loss_before_the_waiting_calls_fail(connect):
    connection = connect()
    order = []
    connection.notes.handle_lost = lambda error: order.append('handler')
    connection.channel.call_async('ping', (1,), lambda call: order.append(type(call.error)))
    call = connection.call(2)
    connection.server.calls(2)
    connection.server.close()
    assert_disconnected([call], 'lost')
    assert order == ['handler', ConnectionLost]


def test_end_of_one_call_that_fails_does_not_let_the_others_wait_for_ever(either, caplog):
    def fail(call):
        raise ValueError('no good')

    either.channel.call_async('ping', (0,), fail)
    call = either.leader(1)
    either.channel.abort(TimeoutError('too slow'))
    assert_disconnected([call], 'too slow')
    assert 'ValueError: no good' in caplog.text


def test_abort_by_another_thread_fails_all_who_wait(either):
    calls, _ = three_waiting(either)
    reason = TimeoutError('too slow')
    either.channel.abort(reason)
    assert_disconnected(calls, 'the connection was lost: too slow')
    assert either.lost_by() is either.channel.fate is reason
    assert either.channel.closed


def test_abort_while_nobody_waits_is_complete_when_it_returns(connect):
    connection = connect(threaded=False)
    connection.channel.abort(TimeoutError('too slow'))
    assert connection.channel.closed
    assert str(connection.lost_by()) == 'too slow'
    assert len(connection.loop) == 0
    assert connection.server.socket.recv(1) == b''


def test_second_abort_changes_nothing(either):
    either.channel.abort(TimeoutError('first'))
    either.channel.abort(TimeoutError('second'))
    either.channel.handle_close()
    either.channel.handle_error(ValueError('third'))
    assert either.channel.buried.wait(PATIENCE_S)
    assert str(either.lost_by()) == str(either.channel.fate) == 'first'


def test_replies_that_had_arrived_before_an_abort_are_delivered_and_the_connection_is_closed(either):
    """The outcome of a commit is not thrown away; the reader cleans up when it leaves."""
    busy, go_on = threading.Event(), threading.Event()

    def handle(name, args):
        busy.set()
        assert go_on.wait(PATIENCE_S)

    either.notes.on_notice = handle
    (leader, follower, unlucky), requests = three_waiting(either)
    either.server.notify(1)
    assert busy.wait(PATIENCE_S)
    either.server.reply(requests[0], 'zero')
    either.server.reply(requests[1], bytes(2 * READ_SIZE))  # in several pieces, after the reader's own
    either.channel.abort(TimeoutError('too slow'))
    go_on.set()
    assert (leader.result(), follower.result()) == ('zero', bytes(2 * READ_SIZE))
    assert_disconnected([unlucky], 'too slow')
    assert str(either.lost_by()) == 'too slow'
    assert either.channel.closed


def test_server_that_goes_on_sending_does_not_keep_an_aborted_connection_open(either, monkeypatch):
    """N12: what is still read is bounded."""
    notice = either.server.core.send_oneway('notice', (1,))
    monkeypatch.setattr(either.channel.transport, 'receive', lambda: notice)
    either.channel.abort(TimeoutError('too slow'))
    assert either.channel.buried.wait(PATIENCE_S)
    assert str(either.lost_by()) == 'too slow'


def test_last_reader_of_an_aborted_connection_closes_it(connect):
    """Without an I/O thread nobody else would."""
    connection = connect(threaded=False)
    busy, go_on = threading.Event(), threading.Event()

    def on_reply(value):
        busy.set()
        assert go_on.wait(PATIENCE_S)
        return value

    call = connection.leader(1, on_reply=on_reply)
    connection.server.reply(connection.server.call(), 'answer')
    assert busy.wait(PATIENCE_S)
    connection.channel.abort(TimeoutError('too slow'))
    go_on.set()
    assert call.result() == 'answer'
    assert str(connection.lost_by()) == 'too slow'
    assert connection.channel.closed


def test_abort_in_a_callback_ends_the_connection_after_that_message(either):
    either.notes.on_notice = lambda name, args: either.channel.abort(TimeoutError('from within'))
    call = either.leader(1)
    either.server.notify(1)
    assert_disconnected([call], 'from within')
    assert str(either.lost_by()) == 'from within'


@pytest.mark.parametrize('use', [
    lambda channel: channel.call('ping', ()),
    lambda channel: channel.load(OID, TID, lambda revision: revision),
    lambda channel: channel.send('note', ()),
    lambda channel: channel.send('note', (), flush=True),
    lambda channel: channel.call_async('ping', (), lambda call: None),
], ids=['call', 'load', 'send', 'flush', 'call_async'])
def test_nothing_can_be_called_after_an_abort(either, use):
    either.channel.abort(TimeoutError('too slow'))
    for _ in range(3):
        with pytest.raises(ClientDisconnected, match='not connected: too slow') as caught:
            use(either.channel)
        assert type(caught.value) is ClientDisconnected  # certainly not sent
    assert either.channel.core.pending == 0


def test_asynchronous_sending_after_an_abort_does_nothing(either):
    either.channel.abort(TimeoutError('too slow'))
    either.channel.send_async(either.channel.core.send_keep_alive())
    assert either.server.socket.recv(1) == b''


def test_sending_into_a_broken_connection_fails_the_call(either):
    either.server.socket.shutdown(socket.SHUT_RD)
    with pytest.raises(ClientDisconnected, match='Broken pipe'):
        either.channel.call('ping', ())
    assert type(either.lost_by()) is BrokenPipeError


def test_end_of_the_loop_ends_the_connection(connect):
    connection = connect(threaded=False)
    call = connection.leader(1)
    connection.loop.close()
    assert_disconnected([call], 'the event loop ends')


def test_loop_that_ends_while_a_thread_processes_its_reply_does_not_disturb_it(connect):
    connection = connect(threaded=False)
    busy, go_on = threading.Event(), threading.Event()

    def on_reply(value):
        busy.set()
        assert go_on.wait(PATIENCE_S)
        return value

    call = connection.leader(1, on_reply=on_reply)
    connection.server.reply(connection.server.call(), 'answer')
    assert busy.wait(PATIENCE_S)
    connection.loop.close()
    go_on.set()
    assert call.result() == 'answer'
    assert str(connection.lost_by()) == 'the event loop ends'


def test_no_descriptor_is_left(connect):
    connect()  # what is made once
    before = len(os.listdir('/proc/self/fd'))
    for threaded in (True, False):
        for end in (lambda made: made.channel.abort(TimeoutError('too slow')),
                    lambda made: made.server.close(), lambda made: None):
            connection = Connection(WatchingRuntime(), threaded)
            connection.open()
            call = connection.leader(1)
            end(connection)
            connection.close()
            assert_disconnected([call], 'the connection was lost')
    assert len(os.listdir('/proc/self/fd')) == before


def test_repr_shows_state_and_reader(connect):
    connection = connect(threaded=False)
    assert repr(connection.channel) == '<ClientChannel <ClientCore Z5 OPEN>, reader: None>'
    connection.channel.abort(TimeoutError('too slow'))
    assert repr(connection.channel) == '<ClientChannel <ClientCore Z5 CLOSED>, reader: nobody any more>'
