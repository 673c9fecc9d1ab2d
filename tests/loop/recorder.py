"""A dispatcher that notes what happens to it."""
from __future__ import annotations

from zeo_clone.loop.dispatcher import Dispatcher


class Recorder(Dispatcher):
    """Notes each handler's call in `events`; `on_read` is called in handle_read."""

    def __init__(self, loop, sock, events=None, name='', on_read=None):
        super().__init__(loop, sock)
        self.events = [] if events is None else events
        self.name = name
        self.on_read = on_read

    def note(self, what):
        self.events.append(f'{self.name}{what}')

    def handle_read(self):
        self.note('read')
        if self.on_read is not None:
            self.on_read()

    def handle_write(self):
        self.note('write')

    def handle_close(self):
        self.note('close')
        self.close()
