"""A result that comes later.

A method of a session returns a `Deferred` instead of a value when the answer has to wait for the commit
lock or for a worker thread; the session recognises it by its type.  Loop thread only.
"""
from __future__ import annotations

from collections.abc import Callable, Generator
from types import GeneratorType
from typing import Any

from zeo_clone.loop.core import Loop


class Deferred:
    """Settled once, by `succeed` or `fail`; the first settlement counts.

    ``when_settled(value, error)`` is called at once if that has happened already; error None means
    success.
    """

    __slots__ = ('_callback', 'error', 'settled', 'value')

    def __init__(self) -> None:
        self.settled = False
        self.value: Any = None
        self.error: BaseException | None = None
        self._callback: Callable[[Any, BaseException | None], object] | None = None

    def __repr__(self) -> str:
        return f'<Deferred {"settled" if self.settled else "open"}>'

    def succeed(self, value: Any) -> None:
        """The result is `value`."""
        self.settle(value, None)

    def fail(self, error: BaseException) -> None:
        """The result is an exception."""
        self.settle(None, error)

    def when_settled(self, callback: Callable[[Any, BaseException | None], object]) -> None:
        """Have `callback` called with value and error, once."""
        if self.settled:
            callback(self.value, self.error)
        else:
            self._callback = callback

    def settle(self, value: Any, error: BaseException | None) -> None:
        """Note the result, and tell whoever waits for it."""
        if self.settled:
            return
        self.settled, self.value, self.error = True, value, error
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(value, error)


def in_parts(loop: Loop, parts: Generator[None, None, Any]) -> Deferred:
    """What the generator `parts` returns at its end; one part of it is done in each turn of the loop."""
    deferred = Deferred()

    def go_on() -> None:
        try:
            next(parts)
        except StopIteration as end:
            deferred.succeed(end.value)
        except Exception as error:
            deferred.fail(error)
        else:
            loop.in_line(go_on)

    go_on()
    return deferred


def settle_with(loop: Loop, answer: Deferred, function: Callable[[], Any]) -> None:
    """Settle `answer` with what `function` returns, as a method of a session may, or raises."""
    try:
        value = function()
    except Exception as error:
        answer.fail(error)
        return
    if type(value) is GeneratorType:
        value = in_parts(loop, value)
    if type(value) is Deferred:
        value.when_settled(answer.settle)
    else:
        answer.succeed(value)
