"""The invalidation history."""
from __future__ import annotations

import pickle

import pytest
from ZODB.utils import p64, z64

from zeo_clone.server.audience import history
from zeo_clone.server.audience.history import History

OIDS = [p64(number) for number in range(10)]


def after(history, tid, *before):
    """What a client at `tid` is told, as it will see it."""
    parts = history.after(tid, *before)
    try:
        while True:
            next(parts)
    except StopIteration as end:
        return value_of(end.value)


def value_of(encoded):
    return encoded and pickle.loads(b'\x80\x03' + b''.join(encoded.pieces) + b'.')


def filled(size=10):
    result = History(size, p64(100))
    for number in range(1, 6):
        result.add(p64(100 + number), [OIDS[number]])
    return result


def test_a_client_at_the_last_transaction_has_nothing_to_forget():
    assert after(filled(), p64(105)) == (p64(105), [])


def test_a_client_behind_learns_what_was_written_since():
    last, oids = after(filled(), p64(102))
    assert last == p64(105)
    assert sorted(oids) == OIDS[3:6]


def test_a_client_between_two_transactions_is_not_known():
    """C22: its transaction is of another past; what lies in the range need not be one of ours."""
    history = History(10, z64)
    history.add(p64(10), [OIDS[1]])
    history.add(p64(20), [OIDS[2]])
    assert [after(history, p64(tid)) for tid in (5, 15, 19)] == [None] * 3
    assert after(history, p64(10)) == (p64(20), [OIDS[2]])
    assert after(history, z64) is not None


def test_the_beginning_counts_only_exactly():
    """C22: also when the transaction with which the history starts is no longer in it."""
    history = filled(size=2)
    history.add(p64(110), [OIDS[1]])
    assert sorted(after(history, p64(104))[1]) == [OIDS[1], OIDS[5]]
    assert after(history, p64(103)) is None


def test_the_latest_transaction_before_another():
    history = filled(size=2)
    assert history.latest(p64(105)) == history.latest(p64(200)) == p64(105)
    assert history.latest(p64(104)) == p64(104)
    assert history.latest(p64(103)) == p64(103)
    assert history.latest(p64(102)) is None


def test_what_was_written_twice_is_told_once():
    history = filled()
    history.add(p64(110), [OIDS[3], OIDS[5]])
    assert len(after(history, p64(100))[1]) == 5


def test_the_beginning_is_remembered_exactly():
    assert after(filled(), p64(100)) is not None
    assert after(filled(), p64(99)) is None


def test_a_client_that_is_ahead_gets_no_answer():
    assert after(filled(), p64(106)) is None


def test_only_size_transactions_are_kept():
    history = filled(size=2)
    assert after(history, p64(103)) is not None
    assert after(history, p64(102)) is None


def test_a_size_of_zero_answers_only_clients_that_are_up_to_date():
    history = filled(size=0)
    assert after(history, p64(105)) == (p64(105), [])
    assert after(history, p64(104)) is None


def test_a_transaction_of_very_many_oids_is_forgotten(monkeypatch):
    monkeypatch.setattr(history, 'MAX_OIDS', 3)
    full = History(10, z64)
    full.add(p64(1), OIDS[:3])
    full.add(p64(2), OIDS[:2])
    assert after(full, z64) is None
    assert after(full, p64(1)) == (p64(2), OIDS[:2])


def test_entries_of_a_storage_are_taken_in_either_order():
    entries = [(p64(1), [OIDS[1]]), (p64(2), [OIDS[2]]), (p64(3), [OIDS[3]])]
    for given in (entries, entries[::-1]):
        seeded = History(10, p64(3), given)
        assert seeded.last_tid == p64(3)
        assert sorted(after(seeded, p64(1))[1]) == OIDS[2:4]
        assert after(seeded, z64) is None


def test_after_forgetting_only_the_present_is_known():
    history = filled()
    history.forget(p64(200))
    assert after(history, p64(105)) is None
    assert after(history, p64(200)) == (p64(200), [])


def test_an_answer_is_made_in_parts_and_holds_when_it_is_there(monkeypatch):
    """C1, S11: what is committed while it is made is in it, once."""
    monkeypatch.setattr(history, 'PART', 3)
    monkeypatch.setattr(history, 'ENTRY', 0)
    large = History(10, z64)
    large.add(p64(1), OIDS[:7])
    large.add(p64(2), OIDS[5:8])
    parts = large.after(z64)
    pauses = 0
    while pauses < 2:
        next(parts)
        pauses += 1
    large.add(p64(3), [OIDS[0], OIDS[9]])
    with pytest.raises(StopIteration) as end:
        while True:
            next(parts)
            pauses += 1
    tid, oids = value_of(end.value.value)
    assert (tid, sorted(oids)) == (p64(3), OIDS[:8] + OIDS[9:])
    assert pauses == 4


def test_what_is_forgotten_while_an_answer_is_made_is_not_known(monkeypatch):
    """C7: the storage was replaced, say."""
    monkeypatch.setattr(history, 'PART', 3)
    large = History(10, z64)
    large.add(p64(1), OIDS)
    parts = large.after(z64)
    next(parts)
    large.forget(p64(5))
    with pytest.raises(StopIteration) as end:
        while True:
            next(parts)
    assert end.value.value is None


def test_what_was_found_elsewhere_comes_first():
    last, oids = after(filled(), p64(104), [OIDS[9], OIDS[5], OIDS[9]])
    assert last == p64(105)
    assert sorted(oids) == [OIDS[5], OIDS[9]]
