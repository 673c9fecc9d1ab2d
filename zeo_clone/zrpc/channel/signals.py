"""Exceptions of signals' handlers, such as KeyboardInterrupt, in the midst of a channel's work.

Python runs such handlers in the main thread only, between any two steps of it: while it waits for a reply
or for the reader's role, while it has the role, while it passes it on, and while it cleans up after the
exception before.  What must not come of it: a role that nobody has, so that all others wait for ever; a
message that was received and has no effect (C17); half a frame on the wire; a connection that is half ended
(C16)::

    main thread              others              what becomes of it
    --------------------     ----------------    ---------------------------------------------------------
    takes the role
      waits          <- !    followers sleep     `guarded`: one of them gets the role, or the loop; the reply
                                                 is processed when it comes
      receives,
      processes      <- !                        the connection ends: nobody knows what was half done.  The
                                                 first step, to note why, is a single assignment
    passes it on     <- !    one may have it     `guarded`: passed on if it is still its own; if it is
                             already             nobody's, somebody is appointed
    ends the         <- !    wait for their      `guarded`: all of the end once more, from its start
    connection               calls
    sends            <- !                        `Sender`: the connection is doomed, unless all has been sent

It rests on two things.  Each of these works is made of steps that may be done again, from the first one on,
however far they came; single operations of a dict, a deque, an attribute are done or not done.  And what is
left to do is done again, here, until it was not interrupted, before the exception goes on to the
application, which must not meet what was true of the old connection (C13).

Why not leave it to the loop's thread, to which no signal ever comes?  If the main thread never were the
reader, each of its calls would cost two more switches of threads, and most programs load in it.  If the
loop only finished what an exception has left: there may be no such thread (``io_thread=False``), and where
there is one, the main thread would have to wait for it, which the next exception ends.  So this way would
be needed beside it.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Who = TypeVar('Who')
#: A step is tried so often, should one exception after the other come.
ATTEMPTS = range(20)


def surely(step: Callable[..., object], *args: Any) -> None:
    """Do a step that may be done again; then raise what came meanwhile, the first of it."""
    first: BaseException | None = None
    for _ in ATTEMPTS:
        try:
            step(*args)
        except BaseException as error:  # noqa: PERF203 - that is what it is for
            first = first or error
        else:
            break
    if first is not None:
        raise first


def guarded(work: Callable[[Who], object], finish: Callable[[Who], object], who: Who) -> None:
    """Do `work`.  If it raises, ``finish(who)``, which may be done again, is done before that goes on."""
    try:
        work(who)
    except BaseException:
        # The next one may come between two attempts, or where `surely` is entered: a loop around a loop.
        for _ in ATTEMPTS:
            try:
                surely(finish, who)
            except BaseException:
                continue
            break
        raise
