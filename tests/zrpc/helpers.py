"""Two cores over a fake wire, recorded traffic, and servers that do what a script says."""
from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc.connection import Agreed, ClientCore, ServerCore
from zeo_clone.zrpc.frames import frame

DATA = Path(__file__).parent.parent / 'data'
TRANSCRIPTS = ('z5-zeo-6.2', 'z4-zeo-4.3.1')


class Recorded(NamedTuple):
    """One frame of a transcript."""

    connection: int
    sender: str  # 'client' or 'server'
    content: bytes


def transcript(name):
    """The frames of a recorded session, in order, of all its connections."""
    with open(DATA / f'{name}.jsonl') as lines:
        entries = [json.loads(line) for line in lines]
    return [Recorded(entry['connection'], entry['from'], bytes.fromhex(entry['frame']))
            for entry in entries if 'frame' in entry]


def in_pieces(data, step):
    """`data` in pieces of `step` bytes; 0: in one."""
    step = step or max(1, len(data))
    return [data[start:start + step] for start in range(0, len(data), step)]


def feed(core, data, step=0):
    """The events that `core` makes of `data`, given in pieces of `step` bytes."""
    return [event for piece in in_pieces(data, step) for event in core.receive_data(piece)]


def feed_until_fault(core, data, step=0):
    """``(events, text of the fault or None)``: whatever a peer sends is an event or a ProtocolError."""
    events = []
    try:
        for piece in in_pieces(data, step):
            for event in core.receive_data(piece):
                events.append(event)  # noqa: PERF402 - what came before the fault counts
    except ProtocolError as error:
        return events, str(error)
    return events, None


def fresh_client(limit=1 << 20):
    return ClientCore(limit)


def open_client(limit=1 << 20):
    """A client's core after its handshake and register."""
    core = ClientCore(limit)
    assert feed(core, frame(b'Z5')) == [Agreed('Z5')]
    core.registered()
    return core


def agreed_server(protocol='Z5', limit=1 << 20):
    """A server's core after the handshake."""
    core = ServerCore(limit)
    assert feed(core, frame(protocol.encode())) == [Agreed(protocol)]
    return core


def open_server(protocol='Z5', limit=1 << 20):
    """A server's core after register."""
    core = agreed_server(protocol, limit)
    core.registered()
    return core


class Wire:
    """A client's and a server's core; what one sends the other receives in pieces of `step` bytes."""

    def __init__(self, step=0):
        self.step = step
        self.client = ClientCore()
        self.server = ServerCore()

    def to_server(self, data):
        return feed(self.server, data, self.step)

    def to_client(self, data):
        return feed(self.client, data, self.step)

    def shake_hands(self):
        assert self.to_client(self.server.greet()) == [Agreed('Z5')]
        assert self.to_server(self.client.send_hello()) == [Agreed('Z5')]

    def register(self):
        call, = self.to_server(self.client.send_call('register', ('1', False), 'registering'))
        self.server.registered()
        result, = self.to_client(self.server.send_reply(call.id, b'\0' * 8))
        assert (call.name, call.args, result.token, result.value) == (
            'register', ('1', False), 'registering', b'\0' * 8)
        self.client.registered()


#: Values that messages may carry.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1 << 63, 1 << 63) | st.binary(max_size=300)
    | st.floats(allow_nan=False) | st.text(st.characters(exclude_categories=['Cs']), max_size=30),
    lambda values: st.lists(values, max_size=4) | st.tuples(values, values) | st.just(())
    | st.dictionaries(st.text(st.characters(exclude_categories=['Cs']), max_size=5), values, max_size=3),
    max_leaves=8)
OIDS = st.binary(min_size=8, max_size=8)
IDS_31 = st.integers(1, 0x7fffffff)
