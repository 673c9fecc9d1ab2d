"""The server as a process: signals, log files, pid file, service manager.

In: signals, ``$NOTIFY_SOCKET``, an eventlog section.  Out: calls of a stop function, an exit code,
log files and a pid file.  Main thread, and one more that acts on signals.  Refuses to know what is
served.
"""
from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

from ZConfig.components.logger.loghandler import reopenFiles

from zeo_clone.loop.meanwhile import meanwhile
from zeo_clone.loop.runtime import AF_UNIX, REAL, Socket

BAD_PLACE = 2  # exit code, as for everything that is wrong in a configuration
INSIST_S = 1  # between two stops of a storage that is being opened
LOG_FORMAT = '%(asctime)s %(levelname)s %(name)s: %(message)s'
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SOCK_DGRAM = 2  # of the socket module, which only the runtime imports

logger = logging.getLogger('zeo_clone')


class StartError(Exception):
    """The server cannot start: one line that says what is wrong and what to do."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(' '.join(text.split()))
        self.exit_code = exit_code


def start_logging(eventlog: Callable[[], object] | None) -> None:
    """Log as `eventlog` sets it up, or, if that is None, to stderr.  Raises `StartError`."""
    if eventlog is None:
        logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stderr)
        return
    try:
        eventlog()
    except OSError as error:
        raise StartError(f'cannot write the log: {error}; see the <eventlog> section') from error


class Signals:
    """What signals do while a server starts and runs.  Made and closed in the main thread.

    TERM, INT and HUP stop the server: before there is one they raise ``SystemExit`` in the main thread,
    afterwards they have it return from its loop.  USR2 reopens log files; USR1 only has a line there.

    Python runs signal handlers between two steps of the main thread.  They must not touch log files,
    which that thread may be writing, and come late if it begins to wait for the network at that very
    moment.  So a thread does the work, which the interpreter wakes through a pipe (``set_wakeup_fd``).
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._main = REAL.get_ident()
        self._stop_server: Callable[[], object] | None = None
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)
        self._handlers = {number: signal.signal(number, self._handle)
                          for number in (*STOP_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)}
        self._wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._thread = REAL.start_thread(self._watch, 'zeo_clone signals')

    # ---- main thread ------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int:
        return 1 if self.received == signal.SIGHUP else 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """A storage is opened in this block, and a stop ends that, though the storage may swallow what the
        stop raises: FileStorage does while it reads its index, and then reads all of its file instead."""
        def insist() -> None:
            if self.received is not None:
                signal.pthread_kill(self._main, self.received)

        with meanwhile(REAL, INSIST_S, insist, 'zeo_clone stop'):
            yield
        if self.received is not None:
            raise SystemExit(self.exit_code)

    def stop_with(self, stop_server: Callable[[], object]) -> None:
        """Have a stop call `stop_server`, once or twice, in any thread."""
        self._stop_server = stop_server
        if self.received is not None:  # just before
            stop_server()

    def close(self) -> None:
        """Put back what was there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_fd)
        os.close(self._write_fd)
        self._thread.join()
        os.close(self._read_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number in STOP_SIGNALS and self._stop_server is None:
            self.received = signal.Signals(number)
            raise SystemExit(self.exit_code)

    # ---- the thread for signals -------------------------------------------------------------------

    def _watch(self) -> None:
        while numbers := os.read(self._read_fd, 4096):
            for number in numbers:
                if number == signal.SIGUSR2:
                    _reopen_log_files()
                elif number == signal.SIGUSR1:  # of other servers it is the one that reopens log files
                    logger.warning('SIGUSR1 means nothing to this server: USR2 reopens log files')
                elif number in STOP_SIGNALS and self.received is None:
                    self.received = signal.Signals(number)
                    if self._stop_server is not None:
                        self._stop_server()


def _reopen_log_files() -> None:
    try:
        reopenFiles()
    except OSError as error:
        print(f'cannot reopen a log file: {error}', file=sys.stderr)
    else:
        logger.info('log files reopened')


def check_pid_file(path: str | None) -> None:
    """Raises `StartError` if there is no directory for the file, or none that may be written."""
    directory = None if path is None else os.path.dirname(os.path.abspath(path))
    if directory is not None and not os.access(directory, os.W_OK | os.X_OK):
        what = 'no permission to write in' if os.path.isdir(directory) else 'there is no directory'
        raise StartError(f'cannot write the pid file {path}: {what} {directory}; name another one with '
                         "--pid-file or the 'pid-filename' key", BAD_PLACE)


@contextlib.contextmanager
def pid_file(path: str | None) -> Iterator[None]:
    """A file with the process id, as long as the block runs.  Raises `StartError`."""
    if path is None:
        yield
        return
    try:
        with open(path, 'w') as file:
            file.write(f'{os.getpid()}\n')
    except OSError as error:
        raise StartError(f'cannot write the pid file: {error}; name another one with --pid-file or the '
                         "'pid-filename' key") from error
    try:
        yield
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass  # somebody was faster
        except OSError as error:
            logger.warning('cannot remove the pid file: %s', error)


def notify(state: str) -> None:
    """Tell the service manager `state`, if there is one (systemd's ``$NOTIFY_SOCKET``)."""
    path = os.environ.get('NOTIFY_SOCKET')
    if not path or AF_UNIX is None:
        return
    address = '\0' + path[1:] if path.startswith('@') else path  # @: an abstract address
    try:
        with contextlib.closing(Socket(AF_UNIX, SOCK_DGRAM)) as sock:
            sock.sendto(state.encode(), address)
    except OSError as error:
        logger.warning('cannot notify the service manager at %s: %s', path, error)
