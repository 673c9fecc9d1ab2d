"""N1: the heartbeat of one link: what is asked, when, and what silence means."""
from __future__ import annotations

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.client.heartbeat import Heartbeat


class SlowTransport:
    """Of a connection over which a large message leaves."""

    queued = 300 << 20
    sent = 0


class SlowChannel:
    """What a heartbeat looks at; it remembers how often the server was asked."""

    def __init__(self, runtime):
        self.transport = SlowTransport()
        self.last_received = runtime.monotonic()
        self.asked = 0

    def call_async(self, name, args, on_done):
        self.asked += 1

    def has_input(self):
        return False


def test_a_server_that_takes_a_large_message_is_there():
    """N1, N19: it may be slow and say nothing meanwhile, as ZEO's; when it takes nothing more it is given up.
    """
    loop, failed = HandLoop(ClockRuntime()), []
    channel = SlowChannel(loop.runtime)
    beat = Heartbeat(loop, channel, 10.0, False, failed.append)
    beat.start()
    for _ in range(50):
        channel.transport.sent += 1 << 20
        loop.advance(10)
    assert not failed
    assert channel.asked == 1
    loop.advance(10)
    assert not failed
    loop.advance(10)
    assert 'silent for 20 s' in str(failed[0])
    beat.stop()


def test_a_client_that_takes_a_large_answer_is_heard_of_meanwhile():
    """N1: it promised to be, and the answer to its first question waits behind the large one."""
    loop, failed = HandLoop(ClockRuntime()), []
    channel = SlowChannel(loop.runtime)
    channel.transport.queued = 0
    beat = Heartbeat(loop, channel, 10.0, True, failed.append)
    beat.start()
    for count in range(1, 30):
        assert channel.asked == count
        channel.last_received = loop.runtime.monotonic()
        loop.advance(10)
    assert not failed
    loop.advance(10)
    assert 'silent for 20 s' in str(failed[0])
    beat.stop()


def test_small_messages_that_only_the_system_took_are_no_sign_of_life():
    """N1: of a host that has vanished."""
    loop, failed = HandLoop(ClockRuntime()), []
    channel = SlowChannel(loop.runtime)
    channel.transport.queued = 0
    beat = Heartbeat(loop, channel, 10.0, False, failed.append)
    beat.start()
    for _ in range(3):
        channel.transport.sent += 100
        loop.advance(10)
    assert failed
    beat.stop()


def test_server_that_does_not_want_to_know_is_not_told():
    """Its method takes no more than the interval."""
    loop, asked = HandLoop(ClockRuntime()), []

    class Channel:
        def call_async(self, name, args, done):
            asked.append((name, args))

    for announce, tell in [(True, None), (False, dict), (True, dict)]:
        Heartbeat(loop, Channel(), 10.0, announce, asked.append, tell).beat()
    assert asked == [('heartbeat', (10.0,)), ('ping', ()), ('heartbeat', (10.0, {}))]
