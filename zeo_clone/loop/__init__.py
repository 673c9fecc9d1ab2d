"""The event loop, and what an application's own main loop calls.

``loop()`` and ``poll()`` turn the application loop of the real world: the one that storages opened with
``io_thread=False`` are registered with.  They run in the calling thread.
"""
from __future__ import annotations

from zeo_clone.loop.application import ApplicationLoop
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import REAL

__all__ = ['APPLICATION', 'Loop', 'application_loop', 'close_application_loop', 'loop', 'poll']

APPLICATION = ApplicationLoop(REAL)
application_loop, close_application_loop = APPLICATION.get, APPLICATION.close
poll, loop = APPLICATION.poll, APPLICATION.loop

# Registered before those of the rooms above, hence called after them.
REAL.at_exit(close_application_loop)
