"""Attempts: what comes of one address, and that nothing is lost when the channel is handed over."""
from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import replace

import pytest

from tests.client.fake_server import Refuse, p64
from tests.client.test_order import Wrapper
from tests.server.desk import ClockRuntime, HandLoop
from tests.support import inside
from zeo_clone.client import attempt
from zeo_clone.client.arguments import arguments
from zeo_clone.client.attempt import CONNECT_TIMEOUT_S, Attempt, AttemptState, Target
from zeo_clone.client.options import make_options
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError
from zeo_clone.loop.runtime import Endpoint

OID = p64(7)


def invalidations_before_the_answer(fake, count):
    """What was committed while the server registers the client; real servers may tell that first."""
    def register(connection, storage, read_only):
        for number in range(count):
            connection.notice('invalidateTransaction', p64(10 + number), [OID])
            connection.notice('info', {'size': number})
        return p64(5)

    fake.answers['register'] = register


def test_an_invalidation_before_the_answer_to_register_takes_effect(fake, opened):
    """C1, C4: the channel's next owner applies it when the cache is verified."""
    storage = opened(wait=False)
    told = Wrapper(storage).told
    invalidations_before_the_answer(fake, 2)
    inside.manager(storage).link(20)
    assert storage.lastTransaction() == p64(11)
    assert told[-2:] == [(p64(10), [OID]), (p64(11), [OID])]


def test_invalidations_in_one_piece_with_the_answer_take_effect(fake, opened):
    """C4: from the answer on they are the link's; nothing is between the two."""
    def register(connection, storage, read_only):
        core = connection.core
        core.registered()
        connection.write(core.send_reply(1, p64(5))  # it is the client's first call
                         + core.send_oneway('invalidateTransaction', (p64(10), [OID])))
        raise Refuse

    fake.answers['register'] = register
    storage = opened()
    assert storage.lastTransaction() == p64(10)


@pytest.mark.parametrize('notice', [('receiveBlobStart', OID, OID), ('nonsense',),
                                    ('invalidateTransaction', 'no tid', [])])
def test_a_server_that_says_nonsense_before_it_registers_is_given_up(fake, opened, notice):
    """S17: and the log, or the complaint, says why."""
    def register(connection, storage, read_only):
        connection.notice(*notice)
        return p64(5)

    fake.answers['register'] = register
    with pytest.raises(ClientDisconnected, match=notice[0] if notice[0] != 'invalidateTransaction' else '.'):
        opened(wait_timeout=1)
    assert fake.called('get_info') == 0


@pytest.mark.parametrize('path, error', [('/' + 'x' * 200, 'OSError: AF_UNIX path too long'),
                                         ('/half \ud800', 'UnicodeEncodeError: ')])
def test_a_path_that_no_socket_can_have_is_said_to_be_so(opened, path, error):
    """N13."""
    with pytest.raises(ClientDisconnected, match=error):
        opened(path, wait_timeout=1)


def test_a_server_that_never_registers_but_talks_is_given_up(fake, opened, monkeypatch):
    monkeypatch.setattr(attempt, 'MAX_EARLY', 3)
    invalidations_before_the_answer(fake, 4)
    with pytest.raises(ClientDisconnected, match="calls 'invalidateTransaction' before it answers register"):
        opened(wait_timeout=1)


# ---- by hand ----------------------------------------------------------------------------------------

class World(ClockRuntime):
    """Its sockets are one that does what a test says: `ways` to connect, and how that went."""

    def __init__(self, *ways):
        super().__init__()
        self.ways = list(ways)
        self.closed = 0

    def socket(self, family):
        return self

    def connect_ex(self, address):
        way = self.ways.pop(0)
        if isinstance(way, Exception):
            raise way
        return way

    def connect_error(self, sock):
        return self.ways.pop(0)

    def fileno(self):
        return 99

    def close(self):
        self.closed += 1


class Loop(HandLoop):
    """Knows what is registered with it."""

    def __init__(self, runtime):
        super().__init__(runtime)
        self.registered = []
        self.register = self.registered.append
        self.unregister = self.registered.remove

    def set_interest(self, fd, mask):
        """Nothing will ever happen by itself."""


class Owner:
    """Whom an attempt tells."""

    def __init__(self):
        self.failures = []

    def attempt_failed(self, one, error):
        self.failures.append(error)


def attempt_by_hand(*ways, **options):
    """An attempt, the loop that it is in, and who hears of it."""
    loop, owner = Loop(World(*ways)), Owner()
    target = Target(Endpoint(socket.AF_INET, ('127.0.0.1', 1)), 'localhost')
    one = Attempt(loop, target, make_options(arguments(('localhost', 1), **options)), owner)
    one.connect()
    return one, loop, owner


UNDER_WAY = errno.EINPROGRESS


@pytest.mark.parametrize(('ways', 'error'), [
    ([OSError(errno.EMFILE, os.strerror(errno.EMFILE))], errno.EMFILE),
    ([errno.ENETUNREACH], errno.ENETUNREACH), ([0, errno.ECONNREFUSED], errno.ECONNREFUSED)])
def test_a_place_that_cannot_be_tried_is_an_error_that_is_told_once(ways, error):
    """N13, C16: no socket stays open, and nobody hears of it again."""
    one, loop, owner = attempt_by_hand(*ways)
    told, = owner.failures
    assert told.errno == error
    assert os.strerror(error) in str(told)
    assert loop.runtime.closed == 1
    loop.advance(CONNECT_TIMEOUT_S)
    one.fail(ValueError('more'))
    assert owner.failures == [told]
    assert 'FAILED' in repr(one)
    with pytest.raises(ProtocolError, match='FAILED> cannot become GREETING'):
        one.move(AttemptState.GREETING)


def test_a_place_that_does_not_answer_is_given_up():
    """N17, N13."""
    one, loop, owner = attempt_by_hand(UNDER_WAY)
    assert one.doing == 'no answer to the attempt to connect'
    loop.advance(CONNECT_TIMEOUT_S)
    assert 'the server is too slow: no answer to the attempt to connect' in str(owner.failures[0])
    assert (loop.registered, loop.runtime.closed) == ([], 1)


def test_an_attempt_ends_with_its_loop():
    """C16."""
    _, loop, owner = attempt_by_hand(UNDER_WAY)
    connector, = loop.registered
    connector.handle_close()
    assert isinstance(owner.failures[0], ClientDisconnected)
    assert (loop.registered, loop.runtime.closed) == ([], 1)


def test_an_attempt_that_an_interrupt_ends_has_failed():
    """C16: `ClientDisconnected` is what its owner can tell others."""
    one, _, owner = attempt_by_hand(UNDER_WAY)
    one.fail(KeyboardInterrupt())
    assert repr(owner.failures) == "[ClientDisconnected('KeyboardInterrupt()')]"


def test_a_connect_that_failed_shows_as_readable_only():
    """N13: with some pollers."""
    _, loop, owner = attempt_by_hand(UNDER_WAY, errno.ECONNREFUSED)
    connector, = loop.registered
    connector.handle_read()
    assert owner.failures[0].errno == errno.ECONNREFUSED
    assert (loop.registered, loop.runtime.closed) == ([], 1)


def test_tls_that_cannot_begin_is_an_error_of_the_place():
    """N13, C16."""
    class Context:
        def wrap_bio(self, *args, **options):
            raise ssl.SSLError(1, 'no such cipher')

    loop, owner = Loop(World(0, 0)), Owner()
    options = replace(make_options(arguments(('localhost', 1))), ssl=Context())
    Attempt(loop, Target(Endpoint(socket.AF_INET, ('127.0.0.1', 1)), 'localhost'), options, owner).connect()
    assert 'no such cipher' in str(owner.failures[0])
    assert loop.runtime.closed == 1


def wait_for_reason(storage, text):
    """Until it is what the client says of why it is not connected."""
    for _ in range(400):
        with pytest.raises(ClientDisconnected) as caught:
            inside.manager(storage).link(0.05)
        if text in str(caught.value):
            return
    raise AssertionError(str(caught.value))


@pytest.mark.parametrize(('tls', 'doing'), [
    (False, 'connected, but it says nothing; perhaps it expects TLS, is no ZEO server, or hangs'),
    (True, 'connected, but the TLS handshake does not end; does a server with TLS listen there?')])
def test_a_server_that_is_mute_is_described(opened, tls, doing):
    """N13."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls else None
    with socket.create_server(('127.0.0.1', 0)) as listener:
        wait_for_reason(opened(listener.getsockname(), wait=False, ssl=context), doing)


def test_a_server_that_hangs_up_without_a_word_is_described(opened):
    """N13: as one does that has no room."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        storage = opened(listener.getsockname(), wait=False)
        listener.accept()[0].close()
        wait_for_reason(storage, 'closed the connection before it said anything: perhaps it has no room')


def test_what_a_server_answers_to_register_must_be_a_tid(fake, opened):
    """S17."""
    fake.answers['register'] = lambda connection, storage, read_only: 'welcome'
    wait_for_reason(opened(wait=False), 'answered register with something that is no tid')
