"""C11 on the server: what became of a transaction whose reply was lost."""
from __future__ import annotations

from zeo_clone.server.commits import outcomes
from zeo_clone.server.commits.outcomes import COMMITTED, NOT_COMMITTED, UNKNOWN, Outcomes

A, B = b'a' * 16, b'b' * 16
TID = b'\0' * 7 + b'\5'


def test_the_last_transaction_is_known_over_connections():
    known = Outcomes()
    known.arrive(A, 0, 'first')
    known.note(A, 1, TID)
    known.leave(A, 'first')
    assert known.arrive(A, 2, 'second') is None
    assert known.find(A, 1) == (COMMITTED, TID)
    assert known.find(A, 2) == (NOT_COMMITTED, None)


def test_what_happened_before_a_restart_is_not_known():
    known = Outcomes()
    known.arrive(A, 3, 'after the restart')
    assert known.find(A, 3) == (UNKNOWN, None)
    assert known.find(A, 4) == (NOT_COMMITTED, None)


def test_a_transaction_in_which_the_storage_failed_is_in_doubt():
    known = Outcomes()
    known.arrive(A, 0, 'first')
    known.note(A, 1, None)
    assert known.find(A, 1) == (UNKNOWN, None)


def test_the_last_transaction_that_came_to_nothing_is_known_over_connections():
    known = Outcomes()
    known.arrive(A, 0, 'first')
    for number, tid in [(1, TID), (2, None)]:
        known.note(A, number, tid)
    assert not known.refused(A, 2)  # perhaps it is on its way
    known.withdraw(A, 2)
    known.leave(A, 'first')
    known.arrive(A, 2, 'second')
    assert [known.refused(A, number) for number in range(4)] == [False, False, True, False]
    assert not known.refused(B, 2)
    known.note(A, 3, None)
    assert not known.refused(A, 2)


def test_an_earlier_connection_of_the_client_is_named_to_be_closed():
    known = Outcomes()
    known.arrive(A, 0, 'first')
    assert known.arrive(A, 0, 'second') == 'first'
    known.leave(A, 'first')  # it was closed; the client is the second one still
    known.note(A, 1, TID)
    assert known.find(A, 1) == (COMMITTED, TID)


def test_clients_are_not_confused():
    known = Outcomes()
    known.arrive(A, 0, 'a')
    known.arrive(B, 0, 'b')
    known.note(A, 1, TID)
    assert known.find(B, 1) == (NOT_COMMITTED, None)
    assert known.find(b'c' * 16, 1) == (UNKNOWN, None)


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(outcomes, 'MAX_IDLE', 2)
    known = Outcomes()
    for token in (A, B, b'c' * 16):
        known.arrive(token, 0, token)
        known.note(token, 1, TID)
        known.leave(token, token)
    known.arrive(A, 1, 'again')
    assert known.find(A, 1) == (UNKNOWN, None)  # gone for longest, hence forgotten
    known.arrive(B, 1, 'again')
    assert known.find(B, 1) == (COMMITTED, TID)


def test_a_client_may_go_while_its_transaction_is_being_finished():
    """C11, C21: it comes again, and asks."""
    known = Outcomes()
    known.arrive(A, 0, 'first')
    known.arrive(B, 0, 'another')
    known.note(B, 1, None)
    known.leave(A, 'first')
    known.leave(B, 'another')
    known.note(A, 1, TID)
    known.withdraw(B, 1)
    known.arrive(A, 1, 'second')
    known.arrive(B, 1, 'another again')
    assert known.find(A, 1) == (COMMITTED, TID)
    assert known.find(B, 1) == (NOT_COMMITTED, None)
