"""Batches of revisions: columns and back."""
from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zeo_clone.Exceptions import UnrecognizedResult
from zeo_clone.zrpc import batches, marshal

ZERO = bytes(8)
TIDS = st.binary(min_size=8, max_size=8).filter(lambda tid: tid != ZERO)
REVISIONS = st.none() | st.tuples(st.binary(max_size=300), TIDS, st.none() | TIDS)
SOME = st.lists(REVISIONS, min_size=1, max_size=20)


@given(SOME)
def test_revisions_come_out_as_they_went_in(revisions):
    """Also through a message, which has only plain values."""
    value = marshal.loads(marshal.dumps(batches.join(revisions)))
    assert batches.split(value, len(revisions)) == revisions
    assert batches.split(value, 1000) == revisions


@given(SOME)
def test_more_than_asked_for_is_refused(revisions):
    with pytest.raises(UnrecognizedResult):
        batches.split(batches.join(revisions), len(revisions) - 1)


@given(st.binary(max_size=80) | st.none(), st.binary(max_size=80) | st.integers())
@example(b'', b'')
@example(bytes(21), b'')
@example(bytes(3) + b'\1' + bytes(16), b'x')
@example(bytes(19) + b'\1', b'')
@example(b'\xff' * 20, b'')
@example(bytes(3) + b'\1' + b's' * 16, b'')
@example(bytes(3) + b'\1' + b's' * 16, b'xy')
def test_only_a_batch_is_taken_for_one(heads, contents):
    """S5: whatever the server sends, what comes out is what `join` would have been given, or an error."""
    try:
        revisions = batches.split((heads, contents), 4)
    except UnrecognizedResult:
        return
    assert 0 < len(revisions) <= 4
    assert batches.join(revisions) == (heads, contents)


@pytest.mark.parametrize('value', [None, 5, b'', [bytes(20), b''], (bytes(20),), (bytes(20), b'', b'')])
def test_other_values_are_refused(value):
    """S5: types before anything else."""
    with pytest.raises(UnrecognizedResult, match='no batch of revisions'):
        batches.split(value, 4)


@pytest.mark.parametrize('revision', [(b'x', b'short', None), (b'x', b'start tid', None),
                                      (b'x', b's' * 8, b'end'), (b'x', b's' * 8, b''),
                                      (b'x', ZERO, None), (b'x', b's' * 8, ZERO)])
def test_a_tid_that_the_other_side_would_refuse_or_mistake_is_not_sent(revision):
    with pytest.raises(ValueError, match='8 bytes'):
        batches.join([revision])
