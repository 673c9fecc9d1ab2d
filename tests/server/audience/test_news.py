"""What many are told, kept until all have it; and when commits come faster than clients can be told."""
from __future__ import annotations

import pickle

import pytest
from ZODB.utils import p64

from tests.server.desk import ClockRuntime, Desk
from zeo_clone.server.audience.audience import LONGEST_REST_S, REST, News

OIDS = [p64(number) for number in range(1, 8)]
SENDING_S = 0.001


class SlowSending(ClockRuntime):
    sending_s = SENDING_S


@pytest.fixture
def desk():
    desk = Desk(runtime=SlowSending())
    yield desk
    desk.close()


def heard(client):
    """The transactions it was told of since the last time."""
    return [args[0] for name, args in client.take_notices() if name == 'invalidateTransaction']


def commit_in_a_storm(desk, count=3):
    """A client that has committed, and one that listens and has heard of the first of its transactions."""
    committer, listener = desk.connect(), desk.connect()
    tids = [committer.commit(oid) for oid in OIDS[:count]]
    assert heard(listener) == tids[:1]
    return committer, listener, tids


def names_in_order(client):
    """Of the messages that were sent to it and not read: the name, and the tid of a notice."""
    messages = [pickle.loads(data[4:]) for data in client.channel.out]
    return [(name, args[0] if name == 'invalidateTransaction' else None) for _, _, name, args in messages]


def test_messages_come_in_one_piece_from_any_place():
    news = News()
    for message in (b'a', b'b', b'c'):
        news.add(message)
    assert [news.since(place) for place in (0, 2, 1, 0)] == [b'abc', b'c', b'bc', b'abc']
    assert (news.end, news.size) == (3, 3)


def test_what_everybody_has_is_forgotten_and_asking_for_it_is_an_error():
    news = News()
    for message in (b'a', b'b', b'c'):
        news.add(message)
    news.forget(2)
    news.forget(1)  # late, and nothing happens
    assert (news.since(2), news.size) == (b'c', 1)
    with pytest.raises(LookupError):
        news.since(1)


def test_whoever_listens_is_told_before_the_committer_is_answered(desk):
    """C1: as long as commits do not come faster than they can be told."""
    committer, listener = desk.connect(), desk.connect()
    order = []
    for client in (committer, listener):
        def send(data, client=client, send=client.channel.send):
            order.append(client)
            send(data)
        client.channel.send = send
    for oid in OIDS:
        committer.begin()
        committer.store(oid)
        committer.call('vote', 7)
        order.clear()
        committer.call('tpc_finish', 7)
        assert order[0] is listener and order[1:] == [committer] * 2  # info, and the answer
        desk.loop.advance(LONGEST_REST_S)


def test_commits_in_a_storm_are_told_together_in_their_order(desk):
    """C1, C3: nothing is left out, and nobody waits longer than so long."""
    _, listener, tids = commit_in_a_storm(desk, 4)
    desk.loop.advance(REST * 2 * SENDING_S - 0.0001)
    assert heard(listener) == []
    desk.loop.advance(0.0002)
    assert heard(listener) == tids[1:]


def test_commits_that_come_no_faster_than_they_are_told_do_not_wait(desk):
    """C1: a reader hears of them as soon as ever."""
    committer, listener = desk.connect(), desk.connect()
    for oid in OIDS:
        tid = committer.commit(oid)
        assert heard(listener) == [tid]
        desk.loop.advance(2 * SENDING_S + 0.0001)


def test_a_storm_lasts_until_a_rest_brings_no_more_than_one_commit(desk):
    """C1: where those who are told take the processor from the committer, its next commit comes late."""
    committer, listener, tids = commit_in_a_storm(desk)
    desk.loop.advance(REST * 2 * SENDING_S + 0.0001)
    assert heard(listener) == tids[1:]
    desk.loop.advance(2 * SENDING_S + 0.0001)
    late = committer.commit(OIDS[3])
    assert heard(listener) == []
    desk.loop.advance(REST * 2 * SENDING_S)
    assert heard(listener) == [late]
    desk.loop.advance(2 * SENDING_S + 0.0001)
    last = committer.commit(OIDS[4])
    assert heard(listener) == [last]


def test_the_rest_has_a_bound(desk):
    clients = [desk.connect() for _ in range(20)]
    tids = [clients[0].commit(oid) for oid in OIDS[:2]]
    desk.loop.advance(LONGEST_REST_S)
    assert all(heard(client) == tids for client in clients[1:])


def test_no_answer_overtakes_the_news(desk):
    """C1, C23: what a client hears next comes after what was committed before."""
    _, listener, tids = commit_in_a_storm(desk)
    call = listener.start('lastTransaction')
    news = [('invalidateTransaction', tid) for tid in tids[1:]]
    assert names_in_order(listener) == [*news, ('.reply', None)]
    assert listener.result(call) == tids[2]
    listener.take_notices()
    desk.loop.advance(LONGEST_REST_S)
    assert heard(listener) == []


def test_a_load_that_says_current_comes_after_what_ended_the_revision_before(desk):
    """C1: else the client would keep the old one as current for ever."""
    committer, listener = desk.connect(), desk.connect()
    first = committer.commit(OIDS[0])
    second = committer.commit(OIDS[0], serial=first)
    assert heard(listener) == [first]
    call = listener.start('loadBefore', OIDS[0], b'\x7f' + b'\xff' * 7)
    assert names_in_order(listener) == [('invalidateTransaction', second), ('.reply', None)]
    assert listener.result(call) == (b'data', second, None)


def test_each_of_two_committers_in_a_storm_hears_of_the_others_only(desk):
    """C1: of what came before its own, before the answer; of its own not at all."""
    one, other = desk.connect(), desk.connect()
    first = one.commit(OIDS[0])
    second = other.commit(OIDS[1])
    third = one.commit(OIDS[2])
    fourth = other.commit(OIDS[3])
    assert (heard(one), heard(other)) == ([second], [first, third])
    desk.loop.advance(LONGEST_REST_S)
    assert (heard(one), heard(other)) == ([fourth], [])


def test_who_comes_in_a_storm_hears_of_what_comes_after(desk):
    """C1: the answer to `register` has what was before."""
    committer, _, tids = commit_in_a_storm(desk)
    late = desk.connect()
    assert late.call('lastTransaction') == tids[2]
    last = committer.commit(OIDS[5])
    desk.loop.advance(LONGEST_REST_S)
    assert heard(late) == [last]


def test_who_goes_in_a_storm_keeps_nobody_from_being_told(desk):
    """C21"""
    committer, listener, tids = commit_in_a_storm(desk)
    committer.hang_up()
    gone = desk.connect()
    gone.hang_up()
    desk.loop.advance(LONGEST_REST_S)
    assert heard(listener) == tids[1:]


def test_what_is_told_in_the_midst_of_telling_reaches_everybody(desk):
    """C1, C21: somebody's end lets the next commit begin, which brings news from elsewhere."""
    committer, deaf, other = desk.connect(), desk.connect(), desk.connect()
    audience = desk.served['1'].audience
    elsewhere = b'\x7f' + bytes(7)

    def send(data):
        deaf.channel.lose('deaf')
        audience.publish(elsewhere, [OIDS[6]], None)
        audience.publish(elsewhere, [OIDS[5]], None)
    deaf.channel.send = send
    tid = committer.commit(OIDS[0])
    desk.loop.advance(LONGEST_REST_S)
    assert heard(committer) == [elsewhere] * 2
    assert heard(other) == [tid] + [elsewhere] * 2


def test_large_news_do_not_wait(desk):
    _, listener, tids = commit_in_a_storm(desk)
    oids = [p64(number) for number in range(4000)]
    desk.served['1'].audience.publish(b'\x7f' + bytes(7), oids, None)
    assert heard(listener) == [*tids[1:], b'\x7f' + bytes(7)]


def test_a_client_of_zeo_4_hears_news_before_serials(desk):
    """C1: it is told with its vote what it has to know before that."""
    old = desk.connect(protocol='Z4')
    committer = desk.connect()
    tids = [committer.commit(oid) for oid in OIDS[:2]]
    old.begin(9)
    old.store(OIDS[4], transaction_id=9)
    old.call('vote', 9)
    names = [(name, args[0]) for name, args in old.take_notices()]
    assert names[:2] == [('invalidateTransaction', tid) for tid in tids]
    assert names[2][0] == 'serialnos'
