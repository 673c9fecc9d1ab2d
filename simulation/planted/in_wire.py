"""Bugs between the two: bytes, threads that read for each other, the loop."""
from __future__ import annotations

from typing import Any

from simulation.planted import Patch, plant
from zeo_clone.loop.transport import Transport
from zeo_clone.loop.trigger import Trigger
from zeo_clone.zrpc.channel.calls import ConnectionLost
from zeo_clone.zrpc.channel.ending import End
from zeo_clone.zrpc.channel.role import Role
from zeo_clone.zrpc.channel.sending import Sender
from zeo_clone.zrpc.channel.server import ServerChannel


@plant('What the socket does not take at once is lost.')
def rest_not_sent() -> list[Patch]:
    def send(self: Any, data: bytes) -> None:
        try:
            self.sent += self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            pass
    return [(Transport, 'send', send)]


@plant('What waits for room is not sent when there is room.')
def room_not_used() -> list[Patch]:
    return [(ServerChannel, 'handle_write', lambda self: None), (Sender, 'go_on', lambda self: None)]


@plant('Whoever leaves the role of the reader appoints nobody (leader and followers).', io_thread=False,
       threads=3)
def nobody_appointed() -> list[Patch]:
    return [(Role, '_appoint', lambda self: None)]


@plant('When a connection ends, calls whose threads do not read go on waiting.')
def callers_not_woken() -> list[Patch]:
    def fail_all(self: Any, fate: Exception) -> None:
        reader = self._role.holder
        self._role.end()
        for pending in self._core.abandon():
            if pending is reader:
                pending.error = ConnectionLost(f'{fate}')
                pending.finish()
        self._done = True
        self.buried.set()
    return [(End, '_fail_all', fail_all)]


@plant('Of what comes through the door together only the first is let in.')
def door_closes_early() -> list[Patch]:
    def take(self: Any) -> Any:
        try:
            while len(self._reader.recv(4096)) == 4096:
                pass
        except (BlockingIOError, InterruptedError):
            pass
        calls = list(self._calls)
        self._calls.clear()
        yield from calls[:1]
    return [(Trigger, 'take', take)]


@plant('Two threads may read from one connection at a time.')
def two_readers() -> list[Patch]:
    def take(self: Any, who: Any) -> bool:
        self.holder = who
        return True
    return [(Role, 'take', take)]


@plant('The loop is never asked to look for input, nor for room for output.')
def reader_not_given_back() -> list[Patch]:
    def poll(self: Any) -> None:
        return
    return [(Role, '_poll', poll)]
