"""The index: oid to place, small and complete."""
from __future__ import annotations

import random
import tracemalloc

import pytest

from tests.cache.truth import p64
from zeo_clone.cache.index import DENSE_MIN, SPARSE_MAX, TRUSTED, PageIndex, Revisions


def test_it_is_a_dict_of_oids():
    rng = random.Random(1)
    index, model = PageIndex(), {}
    for step in range(30_000):
        oid = p64(rng.choice((rng.randrange(600), rng.randrange(1 << 63))))
        if oid in model and rng.random() < (0.7 if step // 5000 % 2 else 0.2):
            index.remove(oid)
            del model[oid]
        else:
            place = rng.randrange(1, 1 << 40) * 16 | rng.choice((0, TRUSTED))
            index.set(oid, place)
            model[oid] = place
        if step % 1000 == 0:
            assert {oid: index.get(oid) for oid in model} == model
            assert dict(index.items()) == {oid: place & ~15 for oid, place in model.items()}
            assert len(index) == len(model)
    assert index.get(p64(5000)) == 0


def test_a_page_changes_its_kind_and_is_gone_when_empty():
    index = PageIndex()
    for number in range(SPARSE_MAX + 1):
        assert type(index.pages.get(bytes(7), {})) is dict
        index.set(p64(number), 16)
    assert type(index.pages[bytes(7)]) is not dict
    for number in range(SPARSE_MAX + 2 - DENSE_MIN):
        assert type(index.pages[bytes(7)]) is not dict
        index.remove(p64(number))
    assert type(index.pages[bytes(7)]) is dict
    for number in range(SPARSE_MAX + 2 - DENSE_MIN, SPARSE_MAX + 1):
        index.remove(p64(number))
    assert index.pages == {}
    assert len(index) == 0


def test_it_is_the_same_after_dump_and_load():
    rng = random.Random(2)
    index, revisions = PageIndex(), Revisions()
    for number in [*range(1000), *(rng.randrange(1 << 63) for _ in range(500))]:
        index.set(p64(number), number * 16 % (1 << 60) + 16 | number % 2)
    for number in range(100):
        for place in range(number % 4):
            revisions.insert(p64(number), place, number * 64 + place * 16)
    raw = index.dump() + revisions.dump() + b'rest'
    assert len(index.dump()) <= index.dumped_size()
    assert len(revisions.dump()) == revisions.dumped_size()
    again, revisions_again = PageIndex(), Revisions()
    revisions_again.load(raw, again.load(raw))
    assert dict(again.items()) == dict(index.items())
    assert len(again) == len(index)
    assert {oid: revisions_again.get(oid) for oid in revisions_again.places} == {
        oid: revisions.get(oid) for oid in revisions.places}
    assert len(revisions_again) == len(revisions)
    assert again.get(p64(3)) == 64  # without its flag
    again.remove(p64(3))
    assert again.get(p64(3)) == 0


@pytest.mark.parametrize('step', [1, 3, 1000])
def test_revisions_know_their_places(step):
    revisions = Revisions()
    revisions.insert(b'A', 0, 16 * step)
    revisions.insert(b'A', 0, 32 * step)
    assert revisions.get(b'A') == [32 * step, 16 * step]
    assert not revisions.discard(b'A', 48 * step)
    assert revisions.discard(b'A', 32 * step)
    assert revisions.discard(b'A', 16 * step)
    assert not revisions.discard(b'A', 16 * step)
    assert b'A' not in revisions.places
    assert len(revisions) == 0


def test_a_dense_index_takes_less_than_16_bytes_for_an_object():
    """The bound for a million objects, at a tenth of them."""
    oids = [p64(number) for number in range(100_000)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        index = PageIndex()
        for number, oid in enumerate(oids):
            index.set(oid, number * 160 + 16)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(index) == 100_000
    assert taken / 100_000 < 10


@pytest.mark.parametrize('step', [1, 1000])
def test_places_are_marked_as_trusted_and_all_of_them_are_not_any_more(step):
    """In pages of both kinds; one that has changed meanwhile is not marked."""
    index = PageIndex()
    oids = [p64(number * step) for number in range(300)]
    for at, oid in enumerate(oids, 1):
        index.set(oid, at * 16)
    index.flag([(oid, at * 16) for at, oid in enumerate(oids, 1)] + [(p64(7 << 40), 16)])
    index.flag([(oids[0], 5 * 16)])
    assert [index.get(oid) for oid in oids] == [at * 16 | TRUSTED for at in range(1, 301)]
    index.unflag()
    assert [index.get(oid) for oid in oids] == [at * 16 for at in range(1, 301)]
