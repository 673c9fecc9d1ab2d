from __future__ import annotations

import itertools
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transaction.interfaces import TransientError
from ZODB.POSException import ConflictError, POSKeyError, ReadOnlyError

from tests.zrpc.helpers import (
    OID,
    TID,
    VALUES,
    Wire,
    agreed_server,
    feed,
    fresh_client,
    open_client,
    open_server,
)
from zeo_clone.Exceptions import MessageTooLarge, ProtocolError, ServerException
from zeo_clone.zrpc import connection, decoder, marshal, messages
from zeo_clone.zrpc.connection import (
    MAX_ID,
    SERVER_PROTOCOLS,
    STRANGER_METHODS,
    TABLE,
    Agreed,
    Call,
    ClientCore,
    Failure,
    HealthChecked,
    Move,
    Result,
    ServerCore,
    State,
)
from zeo_clone.zrpc.frames import MAX_FRAME, STRANGER_LIMIT, frame

LATER = b'\4' * 8


# ---- two cores over a fake wire -----------------------------------------------------------------

@pytest.fixture(params=[0, 1, 2, 7], ids=lambda step: f'pieces of {step}' if step else 'whole')
def wire(request):
    return Wire(request.param)


def test_handshake_and_register_open_both_sides(wire):
    wire.shake_hands()
    assert wire.client.state is wire.server.state is State.STRANGER
    wire.register()
    assert wire.client.state is wire.server.state is State.OPEN
    assert wire.client.protocol == wire.server.protocol == 'Z5'


def test_calls_are_answered_in_any_order_and_paired_with_their_tokens(wire):
    wire.shake_hands()
    wire.register()
    data = b''.join(wire.client.send_call('getTid', (number,), f'token {number}') for number in range(5))
    calls = wire.to_server(data)
    assert [(call.name, call.args, call.oneway) for call in calls] == [
        ('getTid', (number,), False) for number in range(5)]
    assert len({call.id for call in calls}) == wire.client.pending == 5
    answers = b''.join(wire.server.send_reply(call.id, call.args[0] * 10) for call in reversed(calls))
    assert wire.to_client(answers) == [
        Result(f'token {number}', number * 10) for number in range(4, -1, -1)]
    assert wire.client.pending == 0


def test_loads_take_the_fast_path_there_and_back(wire):
    wire.shake_hands()
    wire.register()
    call, = wire.to_server(wire.client.send_load(OID, TID, 'token'))
    assert call == Call(call.id, 'loadBefore', (OID, TID), False)
    for revision in ((b'data', TID, None), (b'data', TID, LATER), None):
        result, = wire.to_client(wire.server.send_loaded(call.id, revision))
        assert result == Result('token', revision)
        call, = wire.to_server(wire.client.send_load(OID, TID, 'token'))


def test_one_way_calls_arrive_on_both_sides_in_order_with_the_others(wire):
    wire.shake_hands()
    wire.register()
    data = (wire.client.send_oneway('storea', (OID, TID, b'data', 1))
            + wire.client.send_call('vote', (1,), 'voting'))
    store, vote = wire.to_server(data)
    assert (store.name, store.args, store.oneway) == ('storea', (OID, TID, b'data', 1), True)
    assert (vote.name, vote.oneway) == ('vote', False)
    data = (wire.server.send_oneway('invalidateTransaction', (TID, [OID]))
            + wire.server.send_keep_alive() + wire.server.send_reply(vote.id, []))
    assert wire.to_client(data) == [
        Call(None, 'invalidateTransaction', (TID, [OID]), True), Result('voting', [])]


def test_keep_alives_are_no_events(wire):
    wire.shake_hands()
    assert wire.to_client(wire.server.send_keep_alive() * 3) == []
    assert wire.to_server(wire.client.send_keep_alive() * 3) == []


def test_errors_keep_type_and_arguments(wire):
    """S4."""
    wire.shake_hands()
    wire.register()
    for error in (KeyError('a'), POSKeyError(OID), ReadOnlyError(), ValueError('x', 1)):
        call, = wire.to_server(wire.client.send_call('anything', (), 'token'))
        failure, = wire.to_client(wire.server.send_error(call.id, error))
        assert type(failure) is Failure
        assert type(failure.error) is type(error)
        assert failure.error.args == error.args


@given(st.lists(st.tuples(VALUES, st.booleans()), max_size=4), st.integers(1, 50))
def test_any_values_go_there_and_back_in_pieces_of_any_size(values, step):
    wire = Wire(step)
    wire.shake_hands()
    wire.register()
    for value, oneway in values:
        if oneway:
            call, = wire.to_server(wire.client.send_oneway('store', (value,)))
        else:
            call, = wire.to_server(wire.client.send_call('ping', (value,), 'token'))
            result, = wire.to_client(wire.server.send_reply(call.id, value))
            assert result == Result('token', value)
        assert call.args == (value,)


def test_conversation_split_at_each_position_gives_the_same_events():
    server = ServerCore()
    data = b''.join([frame(b'Z5'), frame(messages.encode_call(1, 'register', ('1', False))),
                     frame(messages.encode_oneway('register', ())), frame(messages.KEEP_ALIVE)])
    expected = feed(server, data)
    assert len(expected) == 3
    for split in range(len(data) + 1):
        server = ServerCore()
        assert [*server.receive_data(data[:split]), *server.receive_data(data[split:])] == expected


# ---- states -------------------------------------------------------------------------------------

@pytest.mark.parametrize(('state', 'move'), list(itertools.product(State, Move)),
                         ids=lambda item: item.name)
def test_move_is_in_the_table_or_a_protocol_error(state, move):
    core = ServerCore()
    core.state = state
    if (state, move) in TABLE:
        core.move(move)
        assert core.state is TABLE[state, move]
    else:
        with pytest.raises(ProtocolError, match=f'{move.name} is not possible in state {state.name}'):
            core.move(move)
        assert core.state is state


def test_close_is_possible_in_each_state_and_nothing_leads_out_of_it():
    assert {state for state, move in TABLE if move is Move.CLOSE} == set(State)
    assert [move for state, move in TABLE if state is State.CLOSED] == [Move.CLOSE]


def test_registering_before_the_handshake_or_twice_is_an_error():
    with pytest.raises(ProtocolError):
        ClientCore().registered()
    with pytest.raises(ProtocolError):
        open_server().registered()


@pytest.mark.parametrize('make', [open_server, open_client])
def test_data_after_the_end_is_an_error(make):
    core = make()
    core.close()
    with pytest.raises(ProtocolError, match='data after the end'):
        feed(core, frame(messages.KEEP_ALIVE))


def test_repr_shows_protocol_and_state():
    assert repr(open_server('Z4')) == '<ServerCore Z4 OPEN>'


# ---- the handshake ------------------------------------------------------------------------------

def test_server_offers_its_newest_protocol():
    assert ServerCore().greet() == b'\0\0\0\x02Z5'


@pytest.mark.parametrize('protocol', SERVER_PROTOCOLS)
def test_server_takes_the_protocol_that_the_client_chose(protocol):
    assert agreed_server(protocol).protocol == protocol


@pytest.mark.parametrize('choice', ['M5', 'Z3', 'Z6', 'Z309', 'z5', 'Z5 ', '', 'Z', '5', 'Z5' * 100])
def test_server_refuses_another_protocol_by_name(choice):
    with pytest.raises(ProtocolError) as caught:
        feed(ServerCore(), frame(choice.encode()))
    assert str(caught.value) == (f'the client chose the protocol {choice[:16]!r}; '
                                 f'this server speaks Z4 and Z5')


@pytest.mark.parametrize('offer', ['Z5', 'Z6', 'Z10', 'Z309'])
def test_client_answers_with_the_older_of_both_protocols(offer):
    client = fresh_client()
    assert feed(client, frame(offer.encode())) == [Agreed('Z5')]
    assert client.send_hello() == b'\0\0\0\x02Z5'


@pytest.mark.parametrize('offer', ['Z4', 'Z3', 'Z0'])
def test_client_refuses_an_old_server_and_says_why(offer):
    with pytest.raises(ProtocolError, match=f"speaks '{offer}' only: .* stale data. Use a newer server"):
        feed(fresh_client(), frame(offer.encode()))


@pytest.mark.parametrize('offer', [b'M5', b'Z', b'', b'5', b'z5', b'Z5x', b'Z-5', b'Z\xb2', b'Z\xb3\xb9',
                                   b'Z 5', b'Z5\n', b'\xff' * 9, b'220 mail.example.com ESMTP'])
def test_client_refuses_what_is_no_protocol_it_knows_and_asks_what_that_server_is(offer):
    with pytest.raises(ProtocolError) as caught:
        feed(fresh_client(), frame(offer))
    assert str(caught.value) == (
        f'the server offers the protocol {offer[:16].decode("latin-1")!r}; this client speaks Z5. '
        f'Is a ZEO server listening there, without msgpack and without TLS?')


@pytest.mark.parametrize('make', [ServerCore, ClientCore])
@pytest.mark.parametrize(('data', 'what'), [
    (bytes.fromhex('16030100c8010000c4'), 'TLS'), (b'GET / HTTP/1.1\r\n\r\n', 'HTTP')])
def test_peer_that_speaks_something_else_is_refused_at_once_and_by_name(make, data, what):
    with pytest.raises(ProtocolError, match=f'the peer seems to speak {what}'):
        feed(make(), data)


def test_health_check_is_an_event_and_its_answer_is_json():
    server = ServerCore()
    assert feed(server, frame(b'ruok')) == [HealthChecked()]
    assert server.state is State.CHECKED
    content, = connection.FrameReader().feed(server.health({'1': {'loads': 3}}))
    assert json.loads(content) == {'1': {'loads': 3}}
    with pytest.raises(ProtocolError, match='data after the end'):
        feed(server, frame(b'Z5'))


def test_health_check_is_possible_instead_of_the_handshake_only():
    with pytest.raises(ProtocolError):
        feed(agreed_server(), frame(b'ruok'))


def test_an_operator_says_one_json_object():
    """N9, S5."""
    event, = feed(ServerCore(), frame(connection.ADMIN + b'{"disconnect": "a"}'))
    assert event == connection.Administered({'disconnect': 'a'})
    for content in b'[1]', b'{', b'\xff', b'[' * 1000, b'':
        with pytest.raises(ProtocolError, match='no JSON object'):
            feed(ServerCore(), frame(connection.ADMIN + content))


def test_an_answer_that_is_encoded_already_is_the_same_answer(wire):
    """L11: or the same error, if it is too large."""
    value = [(number, b'x' * 10) for number in range(2000)]
    encoder = marshal.ListEncoder()
    for item in value:
        encoder.add(item)
    wire.shake_hands()
    wire.register()
    call, = wire.to_server(wire.client.send_call('undoLog', (), 'token'))
    result, = wire.to_client(b''.join(wire.server.send_encoded(call.id, encoder.encoded())))
    assert (result.token, result.value) == ('token', value)
    small = ServerCore(reply_limit=1000)
    refused, = small.send_encoded(7, encoder.encoded())
    assert b'no more than 1000 may wait' in refused


# ---- limits by phase ----------------------------------------------------------------------------

@pytest.mark.parametrize('make', [ServerCore, agreed_server, ClientCore])
def test_stranger_may_announce_a_small_frame_only(make):
    """N7."""
    with pytest.raises(ProtocolError, match=f'the limit is {STRANGER_LIMIT}'):
        feed(make(), (STRANGER_LIMIT + 1).to_bytes(4, 'big'))


@pytest.mark.parametrize('make', [open_server, open_client])
def test_frames_of_a_registered_peer_are_limited_as_configured(make):
    """N7."""
    core = make(limit=5000)
    assert feed(core, (5000).to_bytes(4, 'big') + bytes(4999)) == []
    with pytest.raises(ProtocolError, match='a frame of 5001 bytes is announced; the limit is 5000'):
        feed(make(limit=5000), (5001).to_bytes(4, 'big'))


def greeted_client():
    core = ClientCore()
    feed(core, frame(b'Z5'))
    return core


def ready_client():
    core = greeted_client()
    core.registered()
    core.verified(MAX_FRAME)
    return core


def asking(core, name='loadBefore'):
    core.send_call(name, (), name)
    return core


@pytest.mark.parametrize(('core', 'limit'), [
    (ClientCore(), STRANGER_LIMIT),
    (asking(greeted_client(), 'register'), connection.OPENING_LIMIT),
    (open_client(MAX_FRAME), connection.NOTICE_LIMIT),
    (asking(open_client(MAX_FRAME), 'getInvalidations'), connection.VERIFICATION_LIMIT),
    (ready_client(), connection.NOTICE_LIMIT),
], ids=['greeting', 'register', 'candidate', 'verification', 'ready and silent'])
def test_a_server_may_announce_what_the_step_can_bring_and_no_more(core, limit):
    """S17."""
    assert limit < 1 << 29
    with pytest.raises(ProtocolError, match=f'a frame of {limit + 1} bytes .* the limit is {limit}'):
        feed(core, (limit + 1).to_bytes(4, 'big'))


def test_the_reply_to_a_call_may_be_as_large_as_the_protocol_can_carry():
    """N19, S17: an object that is there can be read, and memory grows with what has arrived."""
    core = asking(ready_client())
    assert feed(core, MAX_FRAME.to_bytes(4, 'big') + bytes(1000)) == []
    assert core.frames.buffered == 1004


def test_facts_about_the_storage_are_no_larger_than_a_notice():
    """S17: between verification and the first call."""
    core = asking(open_client(MAX_FRAME), 'get_info')
    core.reply_limit = connection.NOTICE_LIMIT
    with pytest.raises(ProtocolError, match=f'the limit is {connection.NOTICE_LIMIT}'):
        feed(core, (connection.NOTICE_LIMIT + 1).to_bytes(4, 'big'))


@pytest.mark.parametrize('send', [
    lambda core, data: core.send_store(OID, TID, data, 1),
    lambda core, data: core.send_oneway('restorea', (OID, TID, data, None, 1)),
    lambda core, data: core.send_call('undoInfo', (0, 1, {'user_name': data}), 'token'),
], ids=['store', 'one-way call', 'call'])
def test_what_the_server_does_not_take_is_not_sent(send):
    """N19: it is no error of the connection, and none that goes away."""
    core = ready_client()
    core.verified(10_000)
    assert send(core, b'x' * 9000)
    waiting = core.pending
    with pytest.raises(MessageTooLarge, match='of at most 10000 bytes. Raise frame-limit') as caught:
        send(core, b'x' * 10_000)
    assert not isinstance(caught.value, TransientError)
    assert core.pending == waiting
    assert core.state is State.OPEN


def test_an_object_that_is_too_large_is_named():
    """N19."""
    core = ready_client()
    core.verified(10_000)
    for send in (lambda: core.send_store(OID, TID, b'x' * 20_000, 1),
                 lambda: core.check_record(OID, b'x' * 20_000)):
        with pytest.raises(MessageTooLarge, match=f'object {OID.hex()} has 20000 bytes'):
            send()
    core.check_record(OID, b'x' * 9000)


def test_an_answer_that_does_not_fit_into_the_memory_of_a_server_is_an_error_reply():
    """N19, S3: once and clearly, and the connection goes on."""
    core = ServerCore(1000, 5000)
    feed(core, frame(b'Z5'))
    core.registered()
    revision = (b'x' * 6000, TID, None)
    for data in (core.send_loaded(7, revision), core.send_reply(7, revision)):
        message_id, flag, _, (name, args) = pickle.loads(data[4:])
        assert (message_id, flag, name) == (7, 2, 'ZODB.POSException.StorageError')
        assert 'no more than 5000 may wait' in args[0] and 'memory-limit' in args[0]
    assert len(core.send_loaded(7, (b'x' * 4000, TID, None))) > 4000, 'although it takes no such message'


def test_what_no_length_can_tell_is_an_error_reply_too():
    """S3: 4 GB of zeros, which nobody touches."""
    core = open_server()
    data = core.send_loaded(7, (bytes(1 << 32), TID, None))
    message_id, flag, _, (name, args) = pickle.loads(data[4:])
    assert (message_id, flag, name) == (7, 2, 'builtins.TypeError')
    assert '4 GB' in args[0]


def test_limit_is_lifted_for_what_follows_register_in_the_same_packet():
    server = agreed_server()
    data = (frame(messages.encode_call(1, 'register', ('1', False)))
            + frame(messages.encode_oneway('storea', (OID, TID, bytes(5000), 1))))
    names = []
    for call in server.receive_data(data):
        names.append(call.name)
        if call.name == 'register':
            server.registered()
    assert names == ['register', 'storea']


# ---- what a client may send ---------------------------------------------------------------------

@pytest.mark.parametrize('name', ['loadBefore', 'tpc_begin', 'get_info', 'ping', 'server_status', ''])
@pytest.mark.parametrize('flag', [0, 1])
def test_nothing_can_be_called_before_register(name, flag):
    """S2."""
    with pytest.raises(ProtocolError, match=f'{name!r} was called before register'):
        feed(agreed_server(), frame(pickle.dumps((1, flag, name, ()), 3)))


def test_load_in_its_fast_form_cannot_be_called_before_register_either():
    """S2."""
    with pytest.raises(ProtocolError, match='before register'):
        feed(agreed_server(), frame(messages.encode_load(1, OID, TID)))


@pytest.mark.parametrize('name', sorted(STRANGER_METHODS))
def test_stranger_may_register(name):
    event, = feed(agreed_server('Z4'), frame(messages.encode_call(0, name, ())))
    assert event == Call(0, name, (), False)


def test_server_is_never_answered():
    with pytest.raises(ProtocolError, match='a reply, but a server calls nothing'):
        feed(open_server(), frame(messages.encode_reply(1, None)))


@pytest.mark.parametrize('message_id', [0, 7, 1 << 40, 'id', b'id', (OID, TID)])
def test_id_of_a_call_is_echoed_unchanged(message_id):
    server = open_server()
    call, = feed(server, frame(pickle.dumps((message_id, False, 'ping', ()), 3)))
    for data in (server.send_reply(call.id, None), server.send_loaded(call.id, (b'data', TID, None)),
                 server.send_error(call.id, KeyError('a'))):
        answer = pickle.loads(data[4:])
        assert answer[0] == message_id
        assert type(answer[0]) is type(message_id)


# ---- what a server may send ---------------------------------------------------------------------

@pytest.mark.parametrize('message_id', [2, 99, 0, -2, 'id', b'id', (OID, TID)])
def test_reply_to_a_call_that_does_not_wait_is_an_error(message_id):
    client = open_client()
    client.send_call('ping', (), 'token')
    with pytest.raises(ProtocolError, match='which does not wait'):
        feed(client, frame(messages.encode_reply(message_id, None)))
    assert client.pending == 1


def test_second_reply_to_a_call_is_an_error():
    client = open_client()
    client.send_call('ping', (), 'token')
    reply = frame(messages.encode_reply(1, None))
    assert feed(client, reply) == [Result('token', None)]
    with pytest.raises(ProtocolError, match='a reply to call 1, which does not wait'):
        feed(client, reply)


def test_client_cannot_be_called_for_an_answer():
    with pytest.raises(ProtocolError, match="the server calls 'ping' and waits for a reply"):
        feed(open_client(), frame(messages.encode_call(1, 'ping', ())))


@pytest.mark.parametrize('value', [None, (), ('a',), ('a', (), 1), (b'a', ()), ['a', ()]])
def test_error_reply_of_a_wrong_shape_is_an_error(value):
    client = open_client()
    client.send_call('ping', (), 'token')
    with pytest.raises(ProtocolError, match='an error reply is not a class name with a state'):
        feed(client, frame(pickle.dumps((1, 2, '.reply', value), 3)))


def test_error_of_an_unknown_class_is_not_imported():
    """S1."""
    client = open_client()
    client.send_call('ping', (), 'token')
    failure, = feed(client, frame(messages.encode_error(1, 'os.system', ('true',))))
    assert type(failure.error) is ServerException
    assert failure.error.class_name == 'os.system'


# ---- what we send -------------------------------------------------------------------------------

@pytest.mark.parametrize('protocol', SERVER_PROTOCOLS)
@pytest.mark.parametrize('value', [object(), {1, object()}, 1 << 5000, '\ud800', [[[object()]]]],
                         ids=['object', 'set', 'huge', 'half a character', 'nested'])
def test_result_that_cannot_be_encoded_is_answered_by_an_error(protocol, value):
    """S3."""
    server = open_server(protocol)
    for data in (server.send_reply(7, value), server.send_loaded(7, (value, TID, None)),
                 server.send_loaded(7, (b'data', value, None)), server.send_loaded(7, value)):
        content, = connection.FrameReader().feed(data)
        if protocol == 'Z5':
            assert messages.decode(content)[:3] == (7, 2, '.reply')
            assert 'cannot be sent' in messages.decode(content)[3][1][0]
        else:
            message_id, flag, name, (kind, error) = pickle.loads(content)
            assert (message_id, flag, name, kind) == (7, 0, '.reply', TypeError)
            assert 'cannot be sent' in str(error)


def test_error_reply_of_z4_is_class_and_instance():
    message_id, flag, name, (kind, error) = pickle.loads(
        open_server('Z4').send_error(7, ConflictError('no', oid=OID, serials=(TID, LATER)))[4:])
    assert (message_id, flag, name) == (7, 0, '.reply')
    assert kind is type(error) is ConflictError
    assert (error.oid, error.serials) == (OID, (TID, LATER))


def test_any_exception_can_be_sent():
    """S3: one without a text, one with arguments that cannot be encoded, one that is no Exception."""
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError('mute')

    errors = [Mute(), KeyError(object()), ValueError([Mute()]), SystemExit(), ValueError('\ud800')]
    for protocol, error in itertools.product(SERVER_PROTOCOLS, errors):
        content = open_server(protocol).send_error(7, error)[4:]
        assert pickle.loads(content)[0] == 7


@pytest.mark.parametrize('args', [(object(),), (1 << 5000,), ({'a': {object()}},)])
def test_call_that_cannot_be_encoded_is_refused_and_nothing_waits(args):
    client = open_client()
    with pytest.raises((TypeError, ValueError), match='cannot encode'):
        client.send_call('ping', args, 'token')
    assert client.pending == 0


def test_ids_start_over_before_they_need_more_than_31_bits():
    client = open_client()
    client._ids = itertools.count(MAX_ID - 1)
    ids = [messages.decode(client.send_call('ping', (), 'token')[4:])[0] for _ in range(4)]
    assert ids == [MAX_ID - 1, MAX_ID, 1, 2]


def test_number_of_waiting_calls_is_limited(monkeypatch):
    monkeypatch.setattr(connection, 'MAX_PENDING', 3)
    client = open_client()
    for _ in range(3):
        client.send_call('ping', (), 'token')
    with pytest.raises(ProtocolError, match='3 calls wait for a reply already'):
        client.send_call('ping', (), 'token')
    with pytest.raises(ProtocolError, match='3 calls wait for a reply already'):
        client.send_load(OID, TID, 'token')


def test_abandoned_calls_come_out_oldest_first_and_once():
    client = open_client()
    for number in range(5):
        client.send_call('ping', (), number)
    assert list(client.abandon()) == [0, 1, 2, 3, 4]
    assert list(client.abandon()) == []
    assert client.pending == 0


def test_a_large_call_is_decoded_in_parts():
    """S11: 90,000 numbers take ten milliseconds and more, in which others are served."""
    server = open_server()
    data = frame(pickle.dumps((1, False, 'numbers', ([10 ** 12] * 90_000,)), 3))
    *pauses, call = server.receive_data(data)
    assert pauses == [None] * (90_000 // decoder.PART)
    assert call == Call(1, 'numbers', ([10 ** 12] * 90_000,), False)


def test_a_call_of_too_many_parts_is_refused():
    """S5, S11."""
    with pytest.raises(ProtocolError, match=f'more than {messages.MAX_CALL_OPCODES} opcodes'):
        feed(open_server(), frame(pickle.dumps((1, False, 'numbers', ([7] * 200_000,)), 3)))


def test_a_large_store_is_not_decoded_in_parts():
    """It has few opcodes, however long it is."""
    data = frame(messages.encode_store(OID, TID, bytes(100_000), 7))
    assert [type(event) for event in open_server().receive_data(data)] == [Call]
