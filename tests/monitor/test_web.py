"""HTTP for strangers: whatever they do, they get an answer or are put out, and nobody waits for them.

The loop is turned by hand, on a clock that a test moves.
"""
from __future__ import annotations

import contextlib
import socket
from http import HTTPStatus

import pytest

from tests.server.desk import ClockRuntime
from zeo_clone.loop.core import Loop
from zeo_clone.monitor.hosts import Hosts
from zeo_clone.monitor.web import (
    DEADLINE_S,
    GRACE_S,
    LINGER_S,
    MAX_CONNECTIONS,
    MAX_HEAD,
    Door,
    Request,
    Response,
    Rules,
    text,
)

GET = b'GET /here?x=1 HTTP/1.1\r\nHost: h\r\nAccept: text/*\r\n\r\n'


class Site:
    """A door, its loop, and peers."""

    def __init__(self):
        self.runtime = ClockRuntime()
        self.loop = Loop(self.runtime)
        self.door = Door(self.loop, self._respond, Rules(Hosts(['h']), ['/do']))
        self.requests = []
        self.replies = []
        self.respond = lambda request, reply: reply(text(HTTPStatus.OK, 'hello'))
        self._peers = contextlib.ExitStack()

    def _respond(self, request, reply):
        self.requests.append(request)
        self.replies.append(reply)
        self.respond(request, reply)

    def connect(self):
        ours, theirs = socket.socketpair()
        self._peers.enter_context(ours)
        theirs.setblocking(False)
        self.door.connected(theirs, 'peer:1')
        ours.settimeout(60)
        return ours

    def turn(self, seconds=0.0):
        self.runtime.now += seconds
        for _ in range(3):
            self.loop.turn(0)

    def say(self, data, peer=None):
        """What is answered to `data`, and whether the connection was closed after that."""
        peer = peer or self.connect()
        peer.sendall(data)
        self.turn()
        return hear(peer)

    def close(self):
        self.loop.close()
        self._peers.close()


def hear(peer):
    """What there is to be read, and whether it is the end."""
    peer.setblocking(False)
    heard = b''
    with contextlib.suppress(BlockingIOError):
        while data := peer.recv(1 << 20):
            heard += data
        return heard, True
    return heard, False


@pytest.fixture
def site():
    with contextlib.closing(Site()) as site:
        yield site


@pytest.fixture(autouse=True)
def _quiet(caplog):
    """N9"""
    caplog.set_level('DEBUG')
    yield
    assert [record for record in caplog.records if record.levelname not in ('DEBUG', 'ERROR')] == []


def test_request_is_answered_and_the_connection_closed(site):
    heard, closed = site.say(GET)
    head, _, body = heard.partition(b'\r\n\r\n')
    assert head.startswith(b'HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\n')
    assert b'\r\nContent-Length: 6\r\n' in head
    assert b'\r\nConnection: close\r\n' in head
    assert (body, closed) == (b'hello\n', True)
    assert site.requests == [Request('/here', 'text/*', 'h', 'x=1', peer='peer:1')]


def test_head_is_answered_without_a_body(site):
    heard, closed = site.say(GET.replace(b'GET', b'HEAD'))
    assert b'\r\nContent-Length: 6\r\n' in heard
    assert heard.endswith(b'\r\n\r\n')
    assert closed


def test_request_may_come_in_pieces(site):
    peer = site.connect()
    for number in range(len(GET) - 1):
        assert site.say(GET[number:number + 1], peer) == (b'', False)
    heard, closed = site.say(GET[-1:], peer)
    assert heard.endswith(b'hello\n')
    assert closed


def test_answer_may_come_later(site):
    site.respond = lambda request, reply: None
    peer = site.connect()
    assert site.say(GET, peer) == (b'', False)
    site.replies[0](text(HTTPStatus.OK, 'at last'))
    site.replies[0](text(HTTPStatus.OK, 'again'))  # nobody hears that
    assert hear(peer)[0].endswith(b'\r\n\r\nat last\n')


def test_peer_that_has_said_all_waits_for_its_answer(site):
    site.respond = lambda request, reply: None
    peer = site.connect()
    peer.sendall(GET)
    peer.shutdown(socket.SHUT_WR)
    site.turn()
    assert hear(peer) == (b'', False)
    site.replies[0](text(HTTPStatus.OK, 'at last'))
    assert hear(peer)[0].endswith(b'at last\n')


@pytest.mark.parametrize('goes_first', [True, False])
def test_peer_that_has_gone_is_forgotten(site, goes_first):
    site.respond = lambda request, reply: None
    peer = site.connect()
    site.say(GET, peer)
    if goes_first:
        peer.close()
        site.turn()
    site.replies[0](Response(HTTPStatus.OK, 'text/plain', b'x' * 10_000_000))
    peer.close()
    site.turn()
    site.turn(DEADLINE_S)
    assert len(site.loop) == 0


@pytest.mark.parametrize(('data', 'status'), [
    (b'\r\n\r\n', 400),
    (b'nonsense\r\n\r\n', 400),
    (b'GET /\r\n\r\n', 200),  # as in HTTP 0.9
    (b'GET / HTTP/9.9\r\n\r\n', 505),
    (b'GET / HTTP/x\r\n\r\n', 400),
    (b'GET / a b HTTP/1.1\r\n\r\n', 400),
    (b'\x16\x03\x01\x02\x00\x01\n\n\xff\xfe', 400),  # a TLS handshake
    (b'\0\0\0\x04ruok\n\n', 400),
    (b'POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc', 405),
    (b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 150 + b'\r\n', 431),
    (b'GET / HTTP/1.1\r\na: ' + b'b' * MAX_HEAD + b'\r\n\r\n', 431),
    (b'G' * (MAX_HEAD + 1), 431),
    (b'GET / HTTP/1.1\n\n', 200),
    (b'GET / HTTP/1.1\r\nAccept\r\n: \xff\r\n\r\n', 200),
])
def test_bad_request_is_told_what_is_wrong(site, data, status):
    heard, _ = site.say(data)
    assert heard.startswith(b'HTTP/1.1 %d ' % status)
    site.turn(LINGER_S)
    assert len(site.loop) == 0


def test_request_cannot_put_anything_into_the_head_of_the_answer(site):
    heard, _ = site.say(b'GET /\r\rX: y HTTP/1.1\r\n\r\n')
    head, _, body = heard.partition(b'\r\n\r\n')
    assert b'X: y' not in head
    assert b'\r' not in body


def test_peer_that_sends_more_than_anybody_reads_gets_its_answer(site):
    """To close while bytes of the peer are unread would reset the connection and lose the answer."""
    peer = site.connect()
    heard, closed = site.say(b'POST / HTTP/1.1\r\n\r\n' + b'x' * 10_000, peer)
    assert heard.startswith(b'HTTP/1.1 405 ')
    assert b'\r\nAllow: GET, HEAD\r\n' in heard
    assert not closed
    assert site.say(b'x' * 10_000, peer) == (b'', False)
    site.turn(LINGER_S)
    assert hear(peer) == (b'', True)


def test_slow_peer_is_put_out(site):
    peer = site.connect()
    for number in range(9):
        site.turn(DEADLINE_S / 10)
        assert site.say(GET[number:number + 1], peer) == (b'', False)
    site.turn(DEADLINE_S / 10)
    assert hear(peer) == (b'', True)


def test_peer_that_does_not_read_is_put_out(site):
    site.respond = lambda request, reply: reply(Response(HTTPStatus.OK, 'text/plain', b'x' * 10_000_000))
    peer = site.connect()
    peer.sendall(GET)
    site.turn()
    assert len(site.loop) == 1
    site.turn(DEADLINE_S)
    assert len(site.loop) == 0
    assert len(hear(peer)[0]) < 10_000_000


def test_large_answer_arrives_whole(site):
    site.respond = lambda request, reply: reply(Response(HTTPStatus.OK, 'text/plain', b'x' * 10_000_000))
    peer = site.connect()
    peer.sendall(GET)
    heard, closed = b'', False
    while not closed:
        site.turn()
        more, closed = hear(peer)
        heard += more
    assert len(heard.partition(b'\r\n\r\n')[2]) == 10_000_000


def test_request_is_answered_once(site):
    site.respond = lambda request, reply: None
    peer = site.connect()
    site.say(GET, peer)
    for _ in range(2):
        site.replies[0](Response(HTTPStatus.OK, 'text/plain', b'x' * 1_000_000))
    heard, closed = b'', False
    while not closed:
        site.turn()
        more, closed = hear(peer)
        heard += more
    assert heard.count(b'HTTP/1.1 200 OK') == 1


def test_peers_that_say_nothing_keep_nobody_out_and_their_number_has_a_limit(site):
    peers = [site.connect() for _ in range(MAX_CONNECTIONS + 3)]
    site.turn()
    assert len(site.loop) == MAX_CONNECTIONS
    assert [hear(peer)[1] for peer in peers] == 3 * [True] + MAX_CONNECTIONS * [False]
    assert site.say(GET)[0].endswith(b'hello\n')
    assert hear(peers[3]) == (b'', True)
    assert len(site.loop) == MAX_CONNECTIONS - 1


def test_mistake_of_ours_is_an_answer_and_a_line_in_the_log(site, caplog):
    site.respond = lambda request, reply: 1 / 0
    heard, closed = site.say(GET)
    assert heard.startswith(b'HTTP/1.1 500 ')
    assert closed
    assert [record.message for record in caplog.records if record.levelname == 'ERROR'] == [
        "peer:1: cannot answer Request(path='/here', accept='text/*', host='h')"]


# ---- storms (S15) ------------------------------------------------------------------------------------

def test_nobody_is_put_out_before_his_request_can_have_arrived(site):
    """S15: the others wait in the system meanwhile."""
    for _ in range(MAX_CONNECTIONS - 1):
        site.connect()
    assert site.door.pause_s() == 0
    site.connect()
    assert site.door.pause_s() == pytest.approx(GRACE_S)
    site.runtime.now += GRACE_S
    assert site.door.pause_s() == pytest.approx(0)


def test_a_request_that_has_arrived_is_answered_before_its_place_is_wanted(site):
    """S15."""
    peers = [site.connect() for _ in range(MAX_CONNECTIONS)]
    peers[0].sendall(GET)
    assert site.door.pause_s() == 0  # it has been answered, and its place is free
    assert hear(peers[0])[0].endswith(b'hello\n')
    assert not hear(peers[1])[1]


def test_who_has_asked_stays_and_who_says_nothing_goes(site):
    """S15."""
    site.respond = lambda request, reply: None
    asking = site.connect()
    site.say(GET, asking)
    silent = [site.connect() for _ in range(MAX_CONNECTIONS)]
    site.turn()
    site.replies[0](text(HTTPStatus.OK, 'at last'))
    assert hear(asking)[0].endswith(b'at last\n')
    assert hear(silent[0]) == (b'', True)


# ---- hosts (S15) -------------------------------------------------------------------------------------

@pytest.mark.parametrize('host', [
    'localhost', 'localhost:9180', 'LocalHost.', '127.0.0.1', '127.1.2.3:80', '[::1]:9180',
    '[::ffff:127.0.0.1]',
    '10.0.0.1:9180', '10.0.0.1', '[fe80::1%25eth0]:80', '[FE80:0::1]', 'Zeo.Example.com',
    'zeo.example.com.:9180', '[2001:db8::1]'])
def test_the_monitor_answers_for_these_hosts(host):
    """S15: localhost, where the request arrived, and what is configured."""
    hosts = Hosts(['ZEO.example.com', '2001:DB8:0::1'])
    arrived_at = 'fe80::1%eth0' if 'e80' in host.lower() else '::ffff:10.0.0.1'
    assert hosts.refusal(host, arrived_at) is None


@pytest.mark.parametrize('host', [
    'evil.example', 'evil.example:9180', 'localhost.evil.example', '10.0.0.2', '[2001:db8::2]', 'xlocalhost',
    '0.0.0.0',
    'zeo.example.com.evil', '', 'a b', 'a@localhost', 'localhost/x', 'http://localhost', '::1', '[::1',
    'a:b:c', 'localhost,evil', 'localhost:x', '[x]', 'x' * 5000])
def test_it_does_not_for_others(host):
    """S15: what a page of another site makes a browser ask for."""
    refusal = Hosts(['zeo.example.com']).refusal(host, '10.0.0.1')
    assert len(refusal) < 500
    assert 'metrics-host' in refusal or 'is no host' in refusal


def test_a_request_for_another_host_is_refused_with_what_to_do(site):
    heard, closed = site.say(GET.replace(b'Host: h', b'Host: evil.example:9180'))
    assert heard.startswith(b'HTTP/1.1 421 ')
    assert b'add "metrics-host evil.example" to <zeo>' in heard
    assert closed
    assert not site.requests


def test_a_request_has_one_host_or_none(site):
    assert site.say(GET.replace(b'Host: h', b'Host: h\r\nHost: evil'))[0].startswith(b'HTTP/1.1 400 ')
    assert site.say(GET.replace(b'Host: h\r\n', b''))[0].startswith(b'HTTP/1.1 200 ')
