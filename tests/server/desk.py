"""A server without sockets: sessions over a fake wire, a loop by hand, a clock that a test moves.

    desk = Desk({'1': storage})
    client = desk.connect()               # registered for storage 1; Z5
    client.call('lastTransaction')        # the reply's value, or raises the error reply
    client.oneway('tpc_begin', ...)
    client.notices                        # one-way calls by the server: [(name, args), ...]

Bytes go in and come out; each reply is paired with its call here, so that a call that is answered twice,
or not at all, is found.
"""
from __future__ import annotations

import logging
import pickle
import struct
from types import GeneratorType

from ZODB.MappingStorage import MappingStorage
from ZODB.utils import z64

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.loop.throttle import Throttle
from zeo_clone.loop.timers import Timers
from zeo_clone.server.backend.workers import run_slice
from zeo_clone.server.clients.limits import find_limits
from zeo_clone.server.clients.session import Session
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.served import ServedStorage
from zeo_clone.server.server import StorageServer
from zeo_clone.zrpc import faults
from zeo_clone.zrpc.channel.memory import Share, unlimited
from zeo_clone.zrpc.channel.server import NoNews, ServerChannel
from zeo_clone.zrpc.connection import ServerCore


class ClockRuntime(Runtime):
    """The real world with a clock of its own."""

    sending_s = 0.0

    def __init__(self):
        self.now = 1000.0
        self.set_by_s = 0.0  # so far somebody has set the clock on the wall

    def monotonic(self):
        return self.now

    def time(self):
        return self.now + self.set_by_s


class HandLoop:
    """A loop that a test turns."""

    def __init__(self, runtime):
        self.runtime = runtime
        self.timers = Timers(runtime.monotonic)
        self.callbacks = []
        self.throttle = Throttle(runtime.monotonic)
        self.call_later = self.timers.call_later
        self.in_line = self.door

    def door(self, callback):
        self.callbacks.append(callback)

    def turn(self):
        """Call what came through the door, and what that leads to."""
        while self.callbacks:
            self.callbacks.pop(0)()

    def advance(self, seconds):
        self.runtime.now += seconds
        for callback in self.timers.pop_due():
            callback()
        self.turn()


class InlineWorkers:
    """Worker threads that are none."""

    def run(self, lane, function, long=False):
        deferred = Deferred()
        try:
            value = function()
            while type(value) is GeneratorType:
                value = run_slice(value, REAL)
            deferred.succeed(value)
        except Exception as error:
            deferred.fail(error)
        return deferred


class Desk:
    """The parts of a StorageServer that sessions use."""

    def __init__(self, storages=None, *, read_only=False, history_size=100, timeout_s=30.0,
                 client_conflict_resolution=False, history_age_s=None, measure=False, runtime=None,
                 resolvable=None, **more):
        self.runtime = runtime or ClockRuntime()
        self.loop = HandLoop(self.runtime)
        self.throttle = self.loop.throttle
        self.read_only = read_only
        self.instance = 'desk'
        self.limits = find_limits(self.runtime, 1, 100, 256 << 20)
        self.frame_limit = self.limits.frame
        self.workers = self.packers = self.syncers = InlineWorkers()
        self.allow_disconnect = False
        self.forgotten = []
        self.clients = []
        self.storages = storages or {'1': MappingStorage()}
        self.served = {
            name: ServedStorage(self.loop, name, storage, history_size=history_size, timeout_s=timeout_s,
                                client_conflict_resolution=client_conflict_resolution,
                                history_age_s=history_age_s, measure=measure, resolvable=resolvable, **more)
            for name, storage in self.storages.items()}

    def disconnect(self, wish, by):
        return StorageServer.disconnect(self, wish, by)

    def ruok(self):
        return {name: served.status() for name, served in self.served.items()}

    def forget(self, session):
        self.forgotten.append(session)

    def welcome(self, session):
        """Strangers and registered clients are treated alike."""

    def stranger(self, peer='peer:1'):
        """A client that has not said anything."""
        self.clients.append(FakeClient(self, peer))
        return self.clients[-1]

    def close(self):
        """End all sessions."""
        for client in self.clients:
            client.hang_up()

    def connect(self, storage='1', read_only=False, protocol='Z5'):
        """A registered client."""
        client = self.stranger()
        client.greet(protocol)
        client.call('register', storage, read_only)
        return client


class FakeChannel:
    """The session's end of the wire."""

    def __init__(self):
        self.core = ServerCore()
        self.handler = None
        self.out = []  # whole frames
        self._piece = b''  # of a frame that is sent in pieces
        self.lost = None
        self.closing = False
        self.room_wanted = False
        self.own_user = False
        self.queued = 0
        self.unfinished = 0
        self.traffic = 0, 0, 0
        self.share = Share(unlimited())
        self._news, self._place = NoNews(), 0

    def send(self, data):
        if self.lost is None:
            if self._place != self._news.end:
                data = self._after_news(data)
            self._piece += data
            while len(self._piece) >= 4 and len(self._piece) >= (size := self._frame_size()):
                self.out.append(self._piece[:size])
                self._piece = self._piece[size:]

    def _frame_size(self):
        return 4 + struct.unpack('>I', self._piece[:4])[0]

    queue = send_common = send
    follow, tell_news, skip_news = ServerChannel.follow, ServerChannel.tell_news, ServerChannel.skip_news
    _after_news = ServerChannel._after_news
    reply, reply_loaded = ServerChannel.reply, ServerChannel.reply_loaded
    reply_encoded, fail = ServerChannel.reply_encoded, ServerChannel.fail
    tell, tell_later = ServerChannel.tell, ServerChannel.tell_later
    tell_health = ServerChannel.tell_health

    @property
    def closed(self):
        return self.lost is not None

    def silence(self):
        return 0.0

    def keep_alive(self):
        """Nobody listens so closely."""

    def is_own_user(self):
        return self.own_user

    def want_room(self):
        self.room_wanted = True

    def close_when_sent(self):
        self.closing = True

    def lose(self, reason, level=logging.INFO):
        if self.lost is None:
            self.lost = reason
            self.core.close()
            self.handler.handle_lost(reason, level)


class FakeClient:
    """The client's end of the wire."""

    def __init__(self, desk, peer='peer:1'):
        self.desk = desk
        self.channel = FakeChannel()
        self.session = Session(desk, self.channel, peer)
        self.channel.handler = self.session
        self.notices = []
        self._replies = {}
        self._next_id = 0
        self._z4 = False

    @property
    def member(self):
        """The client in its storage."""
        return self.session.member

    @property
    def lost(self):
        """Why the server closed the connection; None while it is open."""
        return self.channel.lost

    def greet(self, protocol='Z5'):
        self._z4 = protocol == 'Z4'
        self.feed(protocol.encode())

    def feed(self, content):
        """One frame from the client to the server, and what follows from it."""
        data = struct.pack('>I', len(content)) + content
        try:
            for event in self.channel.core.receive_data(data):
                for _ in self.session.handle_event(event) or ():
                    pass
        except ProtocolError as error:
            self.channel.lose(str(error), logging.WARNING)
        except Exception as error:  # as ServerChannel.handle_error has it
            self.channel.lose(f'an error in the server: {error!r}', logging.ERROR)
        self.desk.loop.turn()

    def _read(self):
        for data in self.channel.out:
            if data[4:6] != b'\x80\x03':
                continue  # not a message: the answer to a health check
            message_id, flag, name, args = pickle.loads(data[4:])
            assert len(data) == 4 + struct.unpack('>I', data[:4])[0]
            if name == '.reply':
                assert message_id not in self._replies, f'a second reply to {message_id}'
                self._replies[message_id] = flag, args
            else:
                assert flag and message_id == 0
                self.notices.append((name, args))
        self.channel.out.clear()

    def take_notices(self):
        """The one-way calls of the server since the last time."""
        self._read()
        notices, self.notices = self.notices, []
        return notices

    def start(self, name, *args, message_id=None):
        """Send a two-way call, return its id."""
        if message_id is None:
            self._next_id += 1
            message_id = self._next_id
        self.feed(pickle.dumps((message_id, False, name, args), 3))
        return message_id

    def has_reply(self, message_id):
        self._read()
        return message_id in self._replies

    def result(self, message_id):
        """The value of a reply, which must be there; an error reply is raised."""
        self._read()
        assert message_id in self._replies, f'no reply; the connection: {self.lost}'
        flag, value = self._replies[message_id]
        if flag == 2:
            raise faults.from_wire(*value)
        if self._z4 and type(value) is tuple and len(value) == 2 and isinstance(value[1], Exception):
            raise value[1]
        return value

    def call(self, name, *args, message_id=None):
        return self.result(self.start(name, *args, message_id=message_id))

    def oneway(self, name, *args):
        self.feed(pickle.dumps((0, True, name, args), 3))

    def begin(self, transaction_id=7, tid=None, status=' '):
        text = '' if self._z4 else b''
        self.oneway('tpc_begin', transaction_id, text, text, {}, tid, status)

    def store(self, oid, data=b'data', serial=z64, transaction_id=7):
        self.oneway('storea', oid, serial, data, transaction_id)

    def commit(self, *oids, serial=z64, data=b'data'):
        """A whole transaction; its tid."""
        self.begin()
        for oid in oids:
            self.store(oid, data, serial)
        self.call('vote', 7)
        return self.call('tpc_finish', 7)

    def hang_up(self):
        self.channel.lose('closed by the client')
        self.desk.loop.turn()
