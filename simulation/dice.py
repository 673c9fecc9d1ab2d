"""Dice: the one source of chance of a run.

In: a seed.  Out: numbers that are the same on every Python, whatever its hash seed.  Of Python's generator
only ``random()`` is used, which never changes; each part of the world has dice of its own, so that one more
throw in one part does not change another.
"""
from __future__ import annotations

import random
from collections.abc import MutableSequence, Sequence
from typing import Any, TypeVar

T = TypeVar('T')


class Dice:
    """Thrown in an order that the run itself determines."""

    def __init__(self, *seed: object) -> None:
        self._seed = '/'.join(map(str, seed))
        self.random = random.Random(self._seed).random

    def fork(self, name: str) -> Dice:
        """Dice of their own for a part called `name`."""
        return Dice(self._seed, name)

    def below(self, limit: int) -> int:
        """A whole number from 0 to before `limit`."""
        return int(self.random() * limit)

    def between(self, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.random() < probability

    def choice(self, items: Sequence[T]) -> T:
        """One of `items`."""
        return items[int(self.random() * len(items))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put `items` into another order, in place."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """So many different ones of `items`."""
        some = list(items)
        self.shuffle(some)
        return some[:count]

    def bytes(self, count: int) -> bytes:
        """So many bytes."""
        return bytes(int(self.random() * 256) for _ in range(count))
