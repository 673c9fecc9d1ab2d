"""The server's channel on a socket pair: what it tells its handler, how it bounds output and ends."""
from __future__ import annotations

import logging
import pickle
import socket
import struct

import pytest

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.loop.transport import Transport
from zeo_clone.zrpc.channel import server as channel_module
from zeo_clone.zrpc.channel.memory import Memory, Share
from zeo_clone.zrpc.channel.server import ServerChannel
from zeo_clone.zrpc.connection import Agreed, ServerCore
from zeo_clone.zrpc.marshal import ListEncoder


class Clock(Runtime):
    """The real world, in which time passes only where a test says so."""

    now = 1000.0

    def monotonic(self):
        return self.now


class CountingTransport(Transport):
    """Counts the writes to the socket."""

    def __init__(self, sock, runtime):
        super().__init__(sock, runtime)
        self.writes = 0

    def send(self, data):
        self.writes += 1
        super().send(data)

    def flush(self):
        self.writes += 1
        return super().flush()


class Handler:
    """Remembers what it is told; `answer` is sent for each call.

    A call of ``slow`` takes a millisecond; one of ``parts`` three, one after the other.
    """

    def __init__(self, channel, answer=b''):
        self.channel = channel
        self.clock = channel.loop.runtime
        self.answer = answer
        self.events = []
        self.lost = []
        self.room = 0

    def handle_event(self, event):
        self.events.append(event)
        if type(event) is Agreed:
            self.channel.core.registered()
        elif event.name == 'fail':
            raise ProtocolError('refused')
        elif event.name == 'crash':
            raise RuntimeError('a bug')
        elif event.name == 'parts':
            return self.in_parts()
        elif event.name == 'slow':
            self.clock.now += 0.001
        elif self.answer:
            self.channel.send(self.answer)
        return None

    def in_parts(self):
        for part in range(3):
            self.clock.now += 0.001
            self.events.append(part)
            yield
        self.channel.send(b'in parts')

    def handle_room(self):
        self.room += 1

    def handle_lost(self, reason, level):
        self.lost.append((reason, level))


class Bench:
    """A channel, its handler, and the client's socket."""

    def __init__(self, loop=None, **options):
        self.loop = loop or Loop(Clock())
        server, self.client = socket.socketpair()
        server.setblocking(False)
        self.client.setblocking(False)
        self.transport = CountingTransport(server, self.loop.runtime)
        self.channel = ServerChannel(self.loop, self.transport, ServerCore(), **options)
        self.handler = Handler(self.channel)
        self.channel.start(self.handler)

    def close(self):
        self.client.close()
        self.loop.close()

    def send(self, *contents):
        self.client.sendall(b''.join(struct.pack('>I', len(content)) + content for content in contents))

    def calls(self, *names):
        self.send(*[pickle.dumps((1, False, name, ()), 3) for name in names])

    @property
    def names(self):
        """The names of the calls told so far."""
        return [getattr(event, 'name', event) for event in self.handler.events[1:]]

    def read(self):
        try:
            return self.client.recv(1 << 24)
        except BlockingIOError:
            return None

    def turn(self, times=1):
        for _ in range(times):
            self.loop.turn(0)


@pytest.fixture
def bench():
    bench = Bench()
    bench.send(b'Z5')
    bench.turn()
    yield bench
    bench.close()


@pytest.fixture
def low_marks(monkeypatch):
    monkeypatch.setattr(channel_module, 'HIGH_WATER', 100_000)
    monkeypatch.setattr(channel_module, 'LOW_WATER', 10_000)


def drain(bench, until):
    """Read as a client that has come back to life; the bytes it got."""
    got = 0
    for _ in range(10_000):
        bench.turn()
        got += len(bench.read() or b'')
        if until():
            return got
    raise AssertionError('it does not go on')


def test_it_greets_and_tells_events(bench):
    assert bench.read() == b'\0\0\0\2Z5'
    bench.calls('ping', 'ping')
    bench.turn()
    assert [type(event).__name__ for event in bench.handler.events] == ['Agreed', 'Call', 'Call']


def test_frames_may_come_byte_by_byte(bench):
    content = pickle.dumps((1, False, 'ping', ()), 3)
    for byte in struct.pack('>I', len(content)) + content:
        bench.client.send(bytes((byte,)))
        bench.turn()
    assert len(bench.handler.events) == 2


def test_what_one_turn_produces_goes_out_in_one_piece(bench):
    bench.handler.answer = b'answer'
    bench.calls(*['ping'] * 50)
    before = bench.transport.writes
    bench.turn()
    assert bench.transport.writes == before + 1
    bench.read()


def test_a_client_need_not_wait_for_the_last_of_many_answers(bench):
    """Of many large answers in one turn, the first have arrived while the last are made."""
    arrived, answer = [], b'x' * (channel_module.SEND_SIZE // 4)

    def answers(event):
        arrived.append(len(bench.read() or b''))
        bench.channel.send(answer)

    bench.handler.handle_event = answers
    bench.read()
    bench.calls(*['ping'] * 12)
    before = bench.transport.writes
    bench.turn()
    assert len(arrived) == 12
    assert sum(arrived) == 10 * len(answer)
    assert bench.transport.writes == before + 3


@pytest.mark.parametrize('end, reason, level', [
    (lambda bench: bench.read() and bench.client.close(), 'closed by the client', logging.INFO),
    (lambda bench: bench.calls('fail'), 'refused', logging.WARNING),
    (lambda bench: bench.send(b'garbage'), 'refused', logging.WARNING),
    (lambda bench: bench.calls('crash'), 'an error in the server: RuntimeError: a bug', logging.ERROR),
    (lambda bench: bench.channel.lose('timeout', logging.WARNING), 'timeout', logging.WARNING),
    (lambda bench: bench.loop.close_all(), 'the server ends', logging.INFO),
])
def test_the_end_is_told_once_with_its_reason(bench, end, reason, level):
    """C16."""
    end(bench)
    bench.turn(3)
    bench.channel.lose('again')
    bench.channel.handle_close()
    (told, told_level), = bench.handler.lost
    assert reason in told and told_level == level
    assert bench.channel.closed


def test_events_before_a_fault_are_told_and_none_after_it(bench):
    bench.calls('ping', 'fail', 'ping')
    bench.turn()
    assert [event.name for event in bench.handler.events[1:]] == ['ping', 'fail']


def test_a_reset_is_a_lost_connection(bench):
    """C16."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
    sock.setblocking(False)
    channel = ServerChannel(bench.loop, Transport(sock, bench.loop.runtime), ServerCore())
    handler = Handler(channel)
    channel.start(handler)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    client.close()
    bench.turn(2)
    (reason, level), = handler.lost
    assert 'ConnectionResetError' in reason and level == logging.INFO


def test_nothing_is_sent_after_the_end(bench):
    bench.channel.lose('timeout')
    bench.channel.send(b'x')
    bench.channel.queue(b'x')
    bench.channel.want_room()
    bench.read()
    assert bench.read() == b''


def test_close_when_sent_sends_everything_first(bench):
    bench.read()
    data = b'x' * 3_000_000
    bench.channel.send(data)
    bench.channel.close_when_sent()
    assert drain(bench, lambda: bench.handler.lost) + len(bench.read() or b'') >= len(data) - (1 << 24)
    assert bench.handler.lost == [('closed by the server', logging.INFO)]


def test_close_when_sent_with_nothing_to_send_closes_at_once(bench):
    bench.channel.close_when_sent()
    assert bench.handler.lost


def test_a_client_that_does_not_read_is_not_read_from(bench, low_marks):
    """N8: and its messages wait, until it has read what it asked for."""
    bench.handler.answer = b'x' * 50_000
    bench.calls(*['ping'] * 100)
    bench.turn(20)
    done = len(bench.handler.events)
    assert done < 50
    assert bench.channel.queued < 200_000
    bench.calls(*['ping'] * 100)
    bench.turn(20)
    assert len(bench.handler.events) == done
    drain(bench, lambda: len(bench.handler.events) == 201)
    assert bench.handler.lost == []


def test_invalidations_for_a_client_that_does_not_read_stop_its_requests_too(bench, low_marks):
    """N8."""
    while bench.channel.queued <= 100_000:
        bench.channel.send(b'x' * 10_000)
    bench.calls('ping')
    bench.turn(5)
    assert len(bench.handler.events) == 1
    drain(bench, lambda: len(bench.handler.events) == 2)


def test_what_was_readable_when_the_pause_began_is_not_lost(bench, low_marks):
    """An event of the same turn may still be delivered after another client's commit filled the output."""
    bench.handler.answer = b'x' * 50_000
    bench.calls(*['ping'] * 20)
    bench.turn(5)
    assert len(bench.handler.events) < 20
    bench.calls('last')
    bench.channel.handle_read()
    drain(bench, lambda: len(bench.handler.events) == 22)
    assert bench.handler.events[-1].name == 'last'


def test_a_client_that_does_not_read_is_closed_above_the_limit():
    """N8: invalidations included."""
    bench = Bench(output_limit=1_000_000)
    for _ in range(1000):
        bench.channel.send(b'x' * 10_000)
    (reason, level), = bench.handler.lost
    assert 'does not read' in reason and level == logging.WARNING
    bench.close()


def test_a_client_that_hangs_up_while_it_is_not_read_from_is_lost(bench, low_marks):
    bench.handler.answer = b'x' * 50_000
    bench.calls(*['ping'] * 100)
    bench.turn(20)
    bench.client.close()
    bench.turn(20)
    assert len(bench.handler.lost) == 1


def test_many_large_answers_to_a_fast_reader_do_not_nest(bench, low_marks, monkeypatch):
    """Each answer is above the mark, and the socket takes each at once: 5,000 pauses, no recursion."""
    monkeypatch.setattr(channel_module, 'HIGH_WATER', 10)
    bench.handler.answer = b'x' * 20
    bench.calls(*['ping'] * 2000)
    drain(bench, lambda: len(bench.handler.events) == 2001)


def test_room_is_told_when_little_waits_once_for_each_wish(bench, low_marks):
    bench.read()
    bench.channel.want_room()
    assert bench.handler.room == 0, 'not in this turn: others come first'
    bench.turn(3)
    assert bench.handler.room == 1
    bench.channel.queue(b'x' * 3_000_000)
    bench.channel.want_room()
    bench.turn(5)
    assert bench.handler.room == 1
    drain(bench, lambda: bench.handler.room == 2)
    bench.turn(5)
    assert bench.handler.room == 2


def test_an_idle_channel_waits_for_nothing_but_input(bench):
    bench.read()
    bench.turn(3)
    assert bench.loop.poller.poll(0) == []


# ---- turns --------------------------------------------------------------------------------------

@pytest.fixture
def other(bench):
    """Another client of the same loop."""
    other = Bench(bench.loop)
    other.send(b'Z5')
    bench.turn()
    yield other
    other.client.close()


def test_a_client_gets_a_few_milliseconds_then_the_others_their_turn(bench, other):
    """S11."""
    bench.calls(*['slow'] * 9, 'last')
    bench.turn()
    assert bench.names == ['slow'] * 2
    other.calls('ping')
    bench.turn()
    assert other.names == ['ping']
    assert bench.names == ['slow'] * 4
    bench.turn(4)
    assert bench.names == ['slow'] * 9 + ['last']


def test_who_has_had_its_turn_goes_on_by_itself(bench):
    """S11: without waiting for anything to arrive."""
    bench.calls(*['slow'] * 9)
    bench.turn()
    for _ in range(4):
        bench.loop.turn(None)
    assert bench.names == ['slow'] * 9


def test_one_that_waits_for_its_turn_is_served_in_each(bench, other):
    """S11: first come, first served, however many have sent too much."""
    third = Bench(bench.loop)
    third.send(b'Z5')
    bench.turn()
    order = []
    for name, one in zip('abc', (bench, other, third), strict=True):
        one.handler.handle_event = lambda event, name=name, handle=one.handler.handle_event: (
            order.append(name) or handle(event))
        one.calls(*['slow'] * 8)
    bench.turn(20)
    third.client.close()
    rounds = [order[start:start + 6] for start in range(6, 24, 6)]
    assert rounds == [rounds[0]] * 3
    assert [len(set(one)) for one in rounds] == [3] * 3


def test_one_that_is_behind_is_not_read_from(bench):
    """N7, S11: what it sends waits with the system."""
    bench.calls(*['slow'] * 4)
    bench.turn()
    received = bench.transport.received
    bench.calls('later')
    bench.turn()
    assert bench.transport.received == received
    assert bench.names == ['slow'] * 4
    bench.turn(2)
    assert bench.names == ['slow'] * 4 + ['later']


def test_one_that_is_behind_is_not_taken_for_dead(bench):
    """N1: the server hears nothing of it because the server does not listen."""
    bench.calls(*['slow'] * 4)
    bench.turn()
    bench.loop.runtime.now += 100
    assert bench.channel.silence() == 0
    bench.turn(3)
    assert bench.channel.silence() > 99


def test_work_in_parts_keeps_the_order_of_answers(bench, other):
    """S11: between two parts others are served, but nobody overtakes within a connection."""
    bench.read()
    bench.handler.answer = b'answer'
    bench.calls('ping', 'parts', 'ping')
    bench.turn(2)
    assert bench.names == ['ping', 'parts', 0, 1]
    other.calls('ping')
    bench.turn(2)
    assert other.names == ['ping']
    assert bench.names == ['ping', 'parts', 0, 1, 2, 'ping']
    assert bench.read() == b'answerin partsanswer'


def test_any_number_of_works_in_parts_may_be_sent_at_once(bench):
    """S11: a thousand fit into one piece."""
    bench.calls(*['parts'] * 1000, 'last')
    drain(bench, lambda: bench.names[-1:] == ['last'])
    assert bench.names == ['parts', 0, 1, 2] * 1000 + ['last']


@pytest.mark.parametrize('last, reason', [('fail', 'refused'), ('crash', 'a bug')])
def test_errors_in_a_later_turn_end_the_connection_too(bench, last, reason):
    """C16."""
    bench.calls('slow', 'slow', 'slow', last)
    bench.turn(3)
    (told, _), = bench.handler.lost
    assert reason in told


def test_one_that_goes_while_it_waits_for_its_turn_is_forgotten(bench):
    """C16."""
    bench.calls(*['slow'] * 9)
    bench.turn()
    bench.channel.lose('timeout')
    bench.turn(3)
    assert bench.names == ['slow'] * 2
    assert len(bench.handler.lost) == 1


def test_output_that_waits_stops_one_that_is_behind_too(bench, low_marks):
    """N8."""
    bench.handler.answer = b'x' * 50_000
    bench.calls(*['ping', 'slow'] * 50)
    drain(bench, lambda: len(bench.handler.events) == 101)
    assert bench.handler.lost == []


# ---- what is counted --------------------------------------------------------------------------------

@pytest.fixture
def counted():
    """A bench whose channel shares a memory of 10 MB."""
    called = []
    bench = Bench(memory=Memory(10_000_000, lambda: called.append(1), lambda callback: None))
    bench.called = called
    bench.send(b'Z5')
    bench.turn()
    yield bench
    bench.close()


def used(bench):
    return bench.channel.share.memory.used


def test_half_a_message_is_counted_until_it_is_whole(counted):
    """S12."""
    content = pickle.dumps((1, False, 'ping', (b'x' * 50_000,)), 3)
    data = struct.pack('>I', len(content)) + content
    counted.client.sendall(data[:40_000])
    counted.turn(3)
    assert used(counted) == counted.channel.waiting == 40_000
    counted.client.sendall(data[40_000:])
    counted.turn(3)
    assert used(counted) == counted.channel.waiting == 0
    assert counted.handler.events[-1].name == 'ping'


def test_output_is_counted_until_it_is_sent(counted):
    """S12."""
    counted.channel.send(b'x' * 3_000_000)
    waiting = counted.channel.queued
    assert waiting > 0
    assert waiting <= used(counted) <= waiting + 1000
    drain(counted, lambda: used(counted) == 0)


def test_many_small_pieces_count_for_more_than_their_bytes(counted):
    """S12."""
    counted.channel.send(b'x' * 3_000_000)
    before = used(counted)
    for _ in range(1000):
        counted.channel.queue(b'small')
    assert used(counted) > before + 50_000


def test_messages_that_wait_to_be_processed_are_counted(counted, low_marks):
    """S12: it does not read, so what it sends is not processed."""
    counted.handler.answer = b'x' * 200_000
    counted.calls(*['ping'] * 500)
    counted.turn(5)
    assert len(counted.handler.events) < 500
    assert used(counted) > counted.channel.queued + 10_000
    drain(counted, lambda: used(counted) == 0)


def test_nothing_is_counted_after_the_end(counted):
    """S12: and what waited is given back at once, whoever still refers to the connection."""
    counted.channel.send(b'x' * 3_000_000)
    counted.channel.send_common(b'x' * 100_000)
    counted.client.sendall(struct.pack('>I', 1000) + b'half')
    counted.turn()
    counted.channel.lose('timeout')
    assert used(counted) == counted.channel.waiting == counted.transport.queued == 0
    assert counted.channel.core.frames.buffered == 0


def test_a_message_for_many_counts_once(counted):
    """S12: for each that has it, when it is asked who has most."""
    other_server, other_client = socket.socketpair()
    other_server.setblocking(False)
    other = ServerChannel(counted.loop, Transport(other_server, REAL), ServerCore(),
                          memory=counted.channel.share.memory)
    other.start(Handler(other))
    for channel in (counted.channel, other):
        channel.send(b'x' * 2_000_000)
    before = used(counted)
    message = b'y' * 1_000_000
    for channel in (counted.channel, other):
        channel.send_common(message)
    assert len(message) <= used(counted) - before < len(message) + 1000
    assert counted.channel.waiting > 1_000_000 < other.waiting
    other.lose('gone')
    assert used(counted) >= len(message)
    drain(counted, lambda: not counted.channel.queued)
    assert used(counted) == 0
    other_client.close()


def test_above_the_limit_whoever_can_close_connections_is_told_at_the_end_of_the_turn(counted):
    """S12."""
    Share(counted.channel.share.memory).add(9_999_000)
    counted.client.sendall(struct.pack('>I', 5000) + b'x' * 500)
    counted.turn()
    assert not counted.called
    counted.client.sendall(b'x' * 1000)
    counted.turn()
    assert counted.called


def test_when_much_waits_for_all_little_is_made_for_one(counted):
    """S12: it costs nobody the connection to be read from later."""
    hog = Share(counted.channel.share.memory)
    hog.add(5_000_000)
    counted.handler.answer = b'x' * 400_000
    counted.calls(*['ping'] * 100)
    counted.turn(5)
    assert len(counted.handler.events) < 20
    assert counted.channel.queued < 2_000_000
    hog.close()
    drain(counted, lambda: len(counted.handler.events) == 101)


def test_one_answer_may_be_larger_than_what_may_wait():
    """N8, N19: an object that is there can be read; what comes besides is limited as ever."""
    bench = Bench(output_limit=1_000_000)
    bench.read()
    bench.channel.send(b'x' * (channel_module.HIGH_WATER + 1))
    bench.channel.send(b'x' * 900_000)
    assert bench.handler.lost == []
    bench.channel.send(b'x' * 5_000_000)
    assert 'output-limit' in bench.handler.lost[0][0]
    bench.close()


class Bulletin:
    """One piece of news."""

    end = 0

    def __init__(self, piece):
        self._piece = piece

    def since(self, place):
        assert place < self.end
        return self._piece


@pytest.mark.parametrize('say', ['send', 'queue', 'send_common'])
def test_news_come_before_whatever_is_said_next_and_once(bench, say):
    """C1."""
    news = Bulletin(b'news ')
    bench.channel.follow(news)
    bench.read()
    news.end += 1
    getattr(bench.channel, say)(b'answer')
    bench.channel.tell_news()
    bench.turn()
    assert bench.read() == b'news answer'


def test_small_news_go_in_one_piece_with_the_answer_and_large_ones_before_it(bench):
    news = Bulletin(b'news ')
    bench.channel.follow(news)
    bench.read()
    for piece, writes in ((b'news ', 1), (b'n' * 40_000, 2)):
        news._piece, before = piece, bench.transport.writes
        news.end += 1
        bench.channel.send(b'answer')
        assert bench.read() == piece + b'answer'
        assert bench.transport.writes == before + writes


def test_who_knows_the_news_is_not_told(bench):
    news = Bulletin(b'news ')
    bench.channel.follow(news)
    bench.read()
    news.end += 1
    bench.channel.skip_news()
    bench.channel.send(b'answer')
    assert bench.read() == b'answer'


# ---- what it says ---------------------------------------------------------------------------------

def said(bench):
    """The messages, and what else there is, that the client has got."""
    bench.turn()
    found, data = [], bench.read() or b''
    while data:
        size, = struct.unpack('>I', data[:4])
        found.append(data[4:4 + size])
        data = data[4 + size:]
    return [pickle.loads(content) if content[:1] == b'\x80' else content for content in found]


def test_each_kind_of_answer_is_a_message(bench):
    """S3, S4."""
    bench.read()
    channel = bench.channel
    tid = b'\0' * 7 + b'\5'
    channel.reply(1, 'value')
    channel.reply_loaded(2, (b'data', tid, None))
    encoder = ListEncoder()
    encoder.extend([1, 2])
    encoder.add('three')
    channel.reply_encoded(3, encoder.encoded('before'))
    channel.fail(4, KeyError('no'))
    channel.tell('info', ({},))
    channel.tell_later('invalidateTransaction', (tid, []))
    assert said(bench) == [
        (1, 0, '.reply', 'value'), (2, 0, '.reply', (b'data', tid, None)),
        (3, 0, '.reply', ('before', [1, 2, 'three'])), (4, 2, '.reply', ('builtins.KeyError', ('no',))),
        (0, 1, 'info', ({},)), (0, 1, 'invalidateTransaction', (tid, []))]


def test_who_asks_for_the_health_gets_it_and_the_end(bench):
    """N9."""
    bench.read()
    bench.channel.tell_health({'1': 5})
    assert said(bench) == [b'{"1": 5}']
    assert bench.handler.lost == [('closed by the server', logging.INFO)]


def test_a_client_that_has_not_been_told_anything_for_long_gets_something_to_ignore(bench):
    """N1: but not one that has, or for which something waits."""
    bench.read()
    channel = bench.channel
    channel.keep_alive()
    assert said(bench) == []  # it was greeted since the last time
    channel.keep_alive()
    (number, _, name, _), = said(bench)
    assert (number, name) == (-1, '.reply')
    channel.reply(1, 'value')
    channel.keep_alive()
    assert len(said(bench)) == 1
    channel.transport.queued = 7
    sent = channel.transport.sent
    channel.keep_alive()
    channel.keep_alive()
    assert channel.transport.sent == sent
    assert channel.traffic == (sent, channel.transport.received, 7)
    channel.transport.queued = 0


@pytest.mark.parametrize('say', ['send', 'queue'])
def test_a_connection_that_cannot_be_written_to_is_lost_and_says_why(bench, say):
    """C16: nothing is raised, and nothing more is sent; also where TLS refuses to take it."""
    def fail(data):
        raise BrokenPipeError(32, 'Broken pipe')

    bench.transport.send = bench.transport.write = fail
    for _ in range(2):
        getattr(bench.channel, say)(b'data')
    (reason, _), = bench.handler.lost
    assert 'Broken pipe' in reason


def test_what_comes_after_the_end_is_not_processed(bench):
    """C16."""
    bench.channel.lose('enough')
    bench.channel.keep_alive()
    bench.channel.tell('info', ({},))
    bench.channel.handle_close()
    assert [reason for reason, _ in bench.handler.lost] == ['enough']


def test_a_client_on_a_socket_pair_is_of_the_servers_own_user(bench):
    """S8."""
    assert bench.channel.is_own_user()
