"""Instances of the storage that are borrowed for work in threads: logs, histories, blobs, iterations, packs.

In: functions of an instance.  Out: what they return, as of now.  An instance belongs to one thread at a time.
While the database is away a function is called again for some time.  Threads that may wait; any of them.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Protocol

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.database.reader import DatabaseAway
from zeo_clone.steps import take_steps

#: Instances that are kept when nobody needs them: each may have a connection.
KEPT = 2
#: Pause before the database is asked again, in seconds.
PAUSE_S = 0.1


class Origin(Protocol):
    """Where they come from."""

    def new_instance(self) -> Any:
        """One more."""

    def is_away(self, error: BaseException) -> bool:
        """Does `error` say that the database has gone, and may come back?"""

    def translate(self, error: BaseException) -> Any:
        """The nearest exception that clients know."""


class Instances:
    """Instances of the storage in `database`, kept for the next question."""

    def __init__(self, runtime: Runtime, database: Origin, patience_s: float) -> None:
        self._runtime = runtime
        self._database = database
        self._patience_s = patience_s
        self._lock = runtime.lock()  # protects _idle and _closed
        self._idle: list[Any] = []
        self._closed = False

    def __repr__(self) -> str:
        return f'<Instances, {len(self._idle)} idle>'

    def call(self, function: Callable[[Any], Any]) -> Any:
        """What `function` returns for an instance that sees all that is committed."""
        clock = self._runtime.monotonic
        until = clock() + self._patience_s
        pause = self._runtime.event()
        while True:
            try:
                return self._call(function)
            except Exception as error:
                if not self._database.is_away(error) or clock() + PAUSE_S >= until:
                    raise self.told(error) from error
            pause.wait(PAUSE_S)

    def told(self, error: Exception) -> Exception:
        """What clients are told of `error`, as by `Reader`."""
        if self._database.is_away(error):
            return DatabaseAway('the database of the server is away; try again later')
        nearest: Exception = self._database.translate(error)
        return nearest

    def _call(self, function: Callable[[Any], Any]) -> Any:
        instance = self.borrow()
        try:
            value = function(instance)
        except BaseException:
            self.drop(instance)
            raise
        self.give_back(instance)
        return value

    def borrow(self) -> Any:
        """An instance; to be given back, or dropped."""
        with self._lock:
            instance = self._idle.pop() if self._idle else None
        if instance is None:
            instance = self._database.new_instance()
        try:
            instance.sync()
        except BaseException:
            self.drop(instance)
            raise
        return instance

    def give_back(self, instance: Any) -> None:
        """Nobody needs `instance` any more; its snapshot ends."""
        try:
            instance.sync()
        except Exception:
            self.drop(instance)
            return
        with self._lock:
            keep = not self._closed and len(self._idle) < KEPT
            if keep:
                self._idle.append(instance)
        if not keep:
            self.drop(instance)

    def drop(self, instance: Any) -> None:
        """It may not be good any more.  Never raises."""
        take_steps('dropping an instance of the storage', instance.release)

    def close(self) -> None:
        """At the end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for instance in idle:
            self.drop(instance)


class Transactions:
    """An iteration over transactions, with an instance of its own until it is closed.

    After an error there is nothing more: what has failed would be missing.
    """

    def __init__(self, instances: Instances, start: bytes | None, stop: bytes | None) -> None:
        self._instances = instances
        self._instance: Any = None
        self._failure: Exception | None = None
        try:
            self._instance = self.call(instances.borrow)
            self._iterator = self.call(self._instance.iterator, start, stop)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Transactions:
        return self

    def __next__(self) -> _Transaction:
        return _Transaction(self, self.call(next, self._iterator))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns.  Raises StopIteration, and what clients know."""
        if self._failure is not None:
            raise self._failure
        try:
            return function(*arguments)
        except StopIteration:
            raise
        except Exception as error:
            self._failure = self._instances.told(error)
            raise self._failure from error

    def close(self) -> None:
        """May be called twice."""
        instance, self._instance = self._instance, None
        if instance is not None:
            with contextlib.suppress(AttributeError):
                self._iterator.close()
            self._instances.give_back(instance)


class _Transaction:
    """One of `transactions`; its records are read when they are asked for."""

    def __init__(self, transactions: Transactions, transaction: Any) -> None:
        self._transactions = transactions
        self._transaction = transaction

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transaction, name)

    def __iter__(self) -> Any:
        return self._transactions.call(iter, self._transaction)
