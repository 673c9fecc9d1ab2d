"""The cores against any bytes, and against recorded traffic; see test_connection.py."""
from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ZODB.POSException import ConflictError, POSKeyError

from tests.zrpc.helpers import (
    OID,
    TID,
    TRANSCRIPTS,
    VALUES,
    agreed_server,
    feed,
    feed_until_fault,
    fresh_client,
    open_client,
    open_server,
    transcript,
)
from zeo_clone.zrpc import messages
from zeo_clone.zrpc.connection import Call, ClientCore, Failure, Result, ServerCore
from zeo_clone.zrpc.frames import frame


def waiting_client():
    client = open_client()
    for number in range(1, 4):
        client.send_call('ping', (), number)
    return client


CORES = [ServerCore, agreed_server, open_server, fresh_client, waiting_client]
KNOWN = [
    b'Z5', b'Z4', b'ruok', messages.KEEP_ALIVE, messages.encode_load(1, OID, TID),
    messages.encode_loaded(1, (b'data', TID, None)), messages.encode_error(2, 'builtins.KeyError', ()),
    messages.encode_call(1, 'register', ('1', False)), messages.encode_oneway('info', ({},)),
    messages.encode_oneway('invalidateTransaction', (TID, [OID])),
    messages.encode_oneway('invalidateTransaction', (TID, [OID, TID])),
    messages.encode_oneway('invalidateTransaction', (TID, []))]
NAMES = st.just('.reply') | st.text(max_size=5, alphabet='ab')
MESSAGES = st.tuples(VALUES, st.integers(0, 2), NAMES, VALUES).map(lambda value: pickle.dumps(value, 3))
FRAMES = st.lists(st.binary(max_size=80) | st.sampled_from(KNOWN) | MESSAGES, max_size=4)
STREAMS = st.binary(max_size=200) | FRAMES.map(lambda contents: b''.join(map(frame, contents)))


@pytest.mark.parametrize('make', CORES)
@given(data=STREAMS, step=st.integers(1, 30))
def test_any_bytes_are_events_or_a_protocol_error_whole_and_in_pieces(make, data, step):
    """S5: and the events before the fault are the same however the bytes were cut."""
    whole, in_steps = feed_until_fault(make(), data), feed_until_fault(make(), data, step)
    assert repr(whole) == repr(in_steps)


@pytest.mark.parametrize('make', CORES)
@given(st.data())
def test_recorded_frame_with_changes_is_an_event_or_a_protocol_error(make, data):
    """S5."""
    recorded = data.draw(st.sampled_from(transcript('z5-zeo-6.2'))).content
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(recorded)))
        recorded = recorded[:position] + data.draw(st.binary(max_size=3)) + recorded[position + 1:]
    whole, in_steps = (feed_until_fault(make(), frame(recorded), step) for step in (0, 3))
    assert repr(whole) == repr(in_steps)


# ---- recorded traffic ---------------------------------------------------------------------------

def play(name, step):
    """Feed a recorded session to server's cores, and for Z5 to client's cores; the calls and results."""
    servers, clients, calls, results = {}, {}, [], []
    for number, sender, content in transcript(name):
        server = servers.setdefault(number, ServerCore())
        client = clients.setdefault(number, ClientCore())
        if sender == 'client':
            for event in feed(server, frame(content), step):
                if type(event) is Call:
                    calls.append(event)
                    if not event.oneway:
                        client._pending[event.id] = event.name  # as if our client had made this call
                    if event.name == 'register':
                        server.registered()
        elif client.protocol or name.startswith('z5'):
            results += feed(client, frame(content), step)
    return servers, clients, calls, results


@pytest.mark.parametrize('step', [0, 1])
@pytest.mark.parametrize('name', TRANSCRIPTS)
def test_server_understands_the_recorded_clients(name, step):
    servers, _, calls, _ = play(name, step)
    assert {server.protocol for server in servers.values()} - {''} == {name[:2].upper()}
    names = {call.name for call in calls}
    assert {'register', 'get_info', 'loadBefore', 'tpc_begin', 'storea', 'vote', 'tpc_finish'} <= names
    assert all(call.oneway for call in calls if call.name in ('tpc_begin', 'storea', 'storeBlobChunk'))
    assert not any(call.oneway for call in calls if call.name in ('register', 'loadBefore', 'vote'))


@pytest.mark.parametrize('step', [0, 1])
def test_client_understands_the_recorded_server(step):
    _, clients, calls, events = play('z5-zeo-6.2', step)
    answered = sum(type(event) in (Result, Failure) for event in events)
    assert answered == sum(not call.oneway for call in calls)
    assert all(client.pending == 0 for client in clients.values())
    notices = {event.name for event in events if type(event) is Call}
    assert {'invalidateTransaction', 'info'} <= notices
    kinds = {type(event.error) for event in events if type(event) is Failure}
    assert {POSKeyError, ConflictError} <= kinds
