"""Undo logs and histories, as the client asks for them: small ones at once, long ones in parts."""
from __future__ import annotations

import sys

import pytest

from zeo_clone.client import chronicle
from zeo_clone.Exceptions import ClientStorageError, UnrecognizedResult
from zeo_clone.zrpc import slices

OID = b'\0' * 7 + b'\1'


def entry(number):
    return {'id': b'%d' % number, 'description': b'even' if number % 2 == 0 else b'odd'}


LOG = [entry(number) for number in range(250)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(chronicle, 'SHORT', 20)
    monkeypatch.setattr(slices, 'SLICE', 100)


@pytest.fixture
def storage(fake, opened):
    """A server that knows only ZEO's methods."""
    fake.answers['undoLog'] = lambda connection, first, last: part(first, last)
    fake.answers['undoInfo'] = lambda connection, first, last, specification: part(first, last)
    fake.answers['history'] = lambda connection, oid, size: LOG[:size]
    return opened()


def part(first, last, specification=None):
    return LOG[first:first - last if last < 0 else last]


class Batches:
    """What a server of ours does."""

    def __init__(self, fake):
        self.open = {}
        self.forgotten = []
        self.begun = []
        info = fake.answers['get_info']
        fake.answers['get_info'] = lambda connection: {**info(connection), 'extensions': ['entry_batch']}
        fake.answers['undo_iterator'] = self.undo
        fake.answers['history_iterator'] = self.history
        fake.answers['entry_batch'] = self.batch
        fake.answers['iterator_gc'] = lambda connection, iids: self.forgotten.extend(iids)

    def undo(self, connection, first, last, specification):
        return self.begin(LOG[first:last])

    def history(self, connection, oid, size):
        return self.begin(LOG[:size])

    def begin(self, entries):
        iid = len(self.begun)
        self.begun.append(iid)
        self.open[iid] = entries
        return iid

    def batch(self, connection, iid, size):
        # An empty one comes now and then: nothing was found for a while.
        entries = self.open[iid]
        self.open[iid] = entries[30:]
        return not self.open[iid], entries[:30]


@pytest.fixture
def batches(fake):
    return Batches(fake)


@pytest.fixture
def new_storage(batches, opened):
    return opened()


def names(fake):
    return [name for name, _ in fake.calls if name in (
        'undoLog', 'undoInfo', 'history', 'undo_iterator', 'history_iterator', 'entry_batch')]


PARTS = [(0, 30), (10, 60), (0, 250), (0, 1000), (200, 1000), (0, sys.maxsize), (0, -sys.maxsize), (5, -1000),
         (0, 1 << 100), (500, 600)]


@pytest.mark.parametrize('first, last', PARTS)
def test_a_long_log_comes_in_batches(fake, new_storage, first, last):
    """L11."""
    assert new_storage.undoLog(first, last) == part(first, last)
    assert new_storage.undoInfo(first, last, {}) == part(first, last)
    assert set(names(fake)) == {'undo_iterator', 'entry_batch'}


@pytest.mark.parametrize('first, last', PARTS)
def test_a_server_without_batches_is_asked_for_slices(fake, storage, first, last):
    """L11: also one of ZEO, or of an older version."""
    assert storage.undoLog(first, last) == part(first, last)
    assert storage.undoInfo(first, last) == part(first, last)
    assert set(names(fake)) == {'undoInfo'}
    asked = [args[1] - args[0] for name, args in fake.calls if name == 'undoInfo']
    assert max(asked) <= 100


@pytest.mark.parametrize('first, last', [(0, 20), (0, -20), (7, 9), (100, -5), (9, 3)])
def test_a_short_log_is_one_question(fake, new_storage, first, last):
    fake.answers['undoLog'] = lambda connection, *args: [args]
    fake.answers['undoInfo'] = lambda connection, *args: [args]
    assert new_storage.undoLog(first, last) == [(first, last)]
    assert new_storage.undoInfo(first, last, {'a': 1}) == [(first, last, {'a': 1})]
    assert len(names(fake)) == 2


@pytest.mark.parametrize('first, last', [
    (0, -20), (0, 20), (5, 9), (5, -9), (0, sys.maxsize), (120, 300), (9, 3)])
@pytest.mark.parametrize('which', ['storage', 'new_storage'])
def test_a_filter_chooses(request, which, first, last):
    """L11: `first` and `last` count what it lets pass, as in a FileStorage."""
    odd = [entry for entry in LOG if entry['description'] == b'odd']
    expected = odd[first:first - last if last < 0 else last]
    storage = request.getfixturevalue(which)
    assert storage.undoLog(first, last, lambda entry: entry['description'] == b'odd') == expected
    assert storage.undoLog(filter=lambda entry: False) == []


def test_no_more_is_asked_for_than_a_filter_needs(fake, batches, new_storage):
    """L11, S5b: and the server forgets the iterator."""
    assert len(new_storage.undoLog(0, 3, lambda entry: True)) == 3
    assert names(fake) == ['undo_iterator', 'entry_batch']
    fake.wait(lambda: batches.forgotten == batches.begun)


def test_a_filter_that_fails_is_the_callers_error(fake, batches, new_storage):
    with pytest.raises(ZeroDivisionError):
        new_storage.undoLog(0, 3, lambda entry: 1 // 0)
    fake.wait(lambda: batches.forgotten == batches.begun)


def test_what_was_read_to_the_end_need_not_be_forgotten(batches, new_storage):
    new_storage.undoLog(0, 1000)
    new_storage.ping()
    assert batches.forgotten == []


def test_the_specification_travels(fake, batches, new_storage):
    new_storage.undoInfo(0, 1000, {'user_name': b'x'})
    assert dict(fake.calls)['undo_iterator'] == (0, 1000, {'user_name': b'x'})


@pytest.mark.parametrize('size', [21, 100, 250, 999_999_999_999, sys.maxsize, 1 << 100])
def test_a_long_history_comes_in_batches(fake, new_storage, size):
    """L11."""
    assert new_storage.history(OID, size) == LOG[:size]
    assert set(names(fake)) == {'history_iterator', 'entry_batch'}


@pytest.mark.parametrize('size', [1, 20, 21, 250, 1 << 100])
def test_a_server_without_batches_is_asked_for_the_whole_history(storage, size):
    """L11."""
    assert storage.history(OID, size) == LOG[:size]


def test_a_history_that_is_too_long_for_a_message_is_a_clear_error(storage, monkeypatch):
    """L11: not a part of it without a word, and not a connection that is dropped."""
    monkeypatch.setattr(chronicle, 'MOST_REVISIONS', 100)
    assert storage.history(OID, 100) == LOG[:100]
    with pytest.raises(ClientStorageError, match='100 revisions or more'):
        storage.history(OID, 101)


def test_a_connection_that_breaks_meanwhile_is_no_error(fake, batches, new_storage):
    """L11: a question that changes nothing is asked again."""
    batch, calls = fake.answers['entry_batch'], []

    def breaks(connection, iid, size):
        calls.append(iid)
        if len(calls) == 3:
            connection.cut()
        return batch(connection, iid, size)

    fake.answers['entry_batch'] = breaks
    assert new_storage.undoLog(0, 1000) == LOG
    assert len(set(calls)) == 2


@pytest.mark.parametrize('reply', [None, [], (True,), (True, None), (True, [1]), (True, ({},))])
def test_what_is_no_batch_is_refused(fake, new_storage, reply):
    """S5."""
    fake.answers['entry_batch'] = lambda connection, iid, size: reply
    with pytest.raises(UnrecognizedResult):
        new_storage.undoLog(0, 1000)


@pytest.mark.parametrize('reply', [None, 7, [7], ({},)])
def test_what_is_no_list_of_entries_is_refused(fake, storage, reply):
    """S5."""
    fake.answers['undoInfo'] = lambda connection, *args: reply
    fake.answers['history'] = lambda connection, *args: reply
    with pytest.raises(UnrecognizedResult):
        storage.undoLog(0, 1000)
    with pytest.raises(UnrecognizedResult):
        storage.history(OID, 1000)
