"""From names to things that work: open storages, take an address, make the server.

In: `StorageSource`s, an address, options of StorageServer.  Out: open storages, a server that listens,
or a `StartError` with one line that says what is wrong and what to do.  Main thread.  Refuses to know
the command line.
"""
from __future__ import annotations

import ast
import contextlib
import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from persistent.mapping import PersistentMapping
from persistent.TimeStamp import TimeStamp
from zc.lockfile import LockError
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError
from ZODB.serialize import ObjectWriter
from ZODB.utils import z64

from zeo_clone.addresses import Address, format_address
from zeo_clone.commands.process import StartError, notify
from zeo_clone.configuration.places import Place
from zeo_clone.loop.meanwhile import meanwhile
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.server.backend.abilities import NotWhole, check_safe, file_of
from zeo_clone.server.clients.limits import MAX_CONNECTIONS, Limits, find_limits, wanted_descriptors
from zeo_clone.server.clients.listen import try_address
from zeo_clone.steps import take_steps
from zeo_clone.wording import format_age, format_bytes
from zeo_clone.zrpc.frames import DEFAULT_LIMIT

BAD_ADDRESS = 2  # exit code
#: While a storage is being opened, the log and the service manager hear of it this often, in seconds ...
PATIENCE_S = 10.0
#: ... and the service manager is asked to wait so much longer each time.
EXTENSION_S = 60
#: In a FileStorage the root object is of 1970, before all other databases: a copy of one can follow (C25).
ROOT_TID: bytes = TimeStamp(1970, 1, 1, 0, 0, 0.0).raw()

#: Errors that say that the disk, or what the user may have of it, is full.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

logger = logging.getLogger('zeo_clone')


class StorageSource(NamedTuple):
    """A storage to be opened: the name clients ask for, where it is, and the function that opens it.

    `check` says in a line what is there, without opening it; None if there is nothing to say.  `places` are
    those to which it alone may write.
    """

    name: str
    place: str
    open: Callable[[], Any]
    check: Callable[[], str | None] = lambda: None
    places: Sequence[Place] = ()


class AddressInUse(StartError):
    """Another server listens where this one should."""


# -- storages -------------------------------------------------------------------------------------

def open_storages(sources: Sequence[StorageSource],
                  opening: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
                  ) -> dict[str, Any]:
    """Open all storages, by name, each in a block of `opening`.  Raises `StartError`; then none is left
    open."""
    storages: dict[str, Any] = {}
    try:
        for source in sources:
            what = f'opening storage {source.name!r} ({_describe_place(source.place)})'
            logger.info('%s', what)
            with patience(what, PATIENCE_S), opening():
                storages[source.name] = storage = _open_storage(source)
            try:
                check_safe(storage)
            except ValueError as error:
                raise StartError(f'cannot serve storage {source.name!r} ({source.place}): {error}') from error
    except BaseException:
        close_storages(storages)
        raise
    return storages


def create_roots(storages: dict[str, Any]) -> None:
    """Make the root object of each storage that is empty and may be written.  Raises `StartError`, and
    ValueError for one that cannot be served.

    The clients of an empty database would each try to make it, and all but one of them fail.
    """
    for name, storage in storages.items():
        check_safe(storage)
        connected = getattr(storage, 'is_connected', None)
        if connected is None or connected():  # else it has a server of its own, which is not there yet
            _create_root(name, storage)


def _create_root(name: str, storage: Any) -> None:
    try:
        if not storage.isReadOnly() and (storage.lastTransaction() or z64) == z64:
            with contextlib.suppress(ConflictError):  # the storage is a client, and another one was faster
                _commit_root(storage)
                logger.info('storage %r was empty: its root object was created (create-root)', name)
    except Exception as error:  # any storage class may be configured, with errors of its own
        raise StartError(f'cannot create the root object of storage {name!r}: {type(error).__name__}: '
                         f'{error}; check that there is room on the disk, or set create-root to false and '
                         'leave it to the first client') from error


def _commit_root(storage: Any) -> None:
    transaction = TransactionMetaData(description='root object of a new database, created by the server')
    if file_of(storage) is not None:
        storage.tpc_begin(transaction, ROOT_TID)
    else:
        storage.tpc_begin(transaction)
    try:
        storage.store(z64, z64, ObjectWriter().serialize(PersistentMapping()), '', transaction)
        storage.tpc_vote(transaction)
    except BaseException:
        storage.tpc_abort(transaction)
        raise
    storage.tpc_finish(transaction)


def close_storages(storages: dict[str, Any]) -> None:
    take_steps('closing the storages', *[storage.close for storage in storages.values()])


def _describe_place(place: str) -> str:
    """`place`, and if it is a file, its size, and why opening it may take long."""
    try:
        size = os.path.getsize(place)
    except (OSError, ValueError):
        return place
    if size and not os.path.isdir(place) and not os.path.exists(f'{place}.index'):
        return f'{place}, {format_bytes(size)}; there is no {place}.index, so all of it must be read'
    return f'{place}, {format_bytes(size)}'


def patience(what: str, interval_s: float,
             runtime: Runtime = REAL) -> contextlib.AbstractContextManager[None]:
    """As long as the block runs, tell the log and the service manager now and then that `what` goes on."""
    started = runtime.monotonic()

    def tell() -> None:
        text = f'still {what}: {format_age(runtime.monotonic() - started)}'
        logger.info('%s', text)
        notify(f'STATUS={text}\nEXTEND_TIMEOUT_USEC={EXTENSION_S * 1_000_000}')

    return meanwhile(runtime, interval_s, tell, 'zeo_clone patience')


def try_storage(source: StorageSource) -> str | None:
    """What is where the storage is, in a line, if that is to be tried.  Raises `StartError`."""
    what = f'cannot serve storage {source.name!r} ({source.place})'
    try:
        return source.check()
    except ValueError as error:  # ours
        raise StartError(f'{what}: {error}') from error
    except Exception as error:  # drivers of databases have errors of their own
        raise StartError(f'{what}: {type(error).__name__}: {" ".join(str(error).split())}; check its '
                         f'section, and that the database runs and lets this user in') from error


def _open_storage(source: StorageSource) -> Any:
    what = f'cannot open storage {source.name!r} ({source.place})'
    try:
        return source.open()
    except NotWhole as error:
        raise StartError(f'{what}: {error}') from error
    except LockError as error:
        raise StartError(f'{what}: {_describe_lock(error)}; stop that process, or serve another '
                         'file') from error
    except FileNotFoundError as error:
        advice = ('check the path' if os.path.isdir(os.path.dirname(error.filename or '') or '.') else
                  'make the directory, or name another one')
        raise StartError(f'{what}: {error.strerror}: {error.filename}; {advice}') from error
    except OSError as error:
        advice = ('make room on the disk' if error.errno in NO_SPACE else
                  'check that the path is right and that this user may write there')
        raise StartError(f'{what}: {error}; {advice}') from error
    except Exception as error:  # any storage class may be configured, with errors of its own
        advice = ('check its section, and that the database runs and lets this user in'
                  if type(error).__module__.startswith('psycopg2') else
                  'check its section, and that what it names is installed for the server'
                  if isinstance(error, ImportError) or type(error).__module__.startswith('relstorage') else
                  'check that this is the right storage and that it is not damaged')
        text = ' '.join(str(error).split())
        raise StartError(f'{what}: {type(error).__name__}: {text}; {advice}') from error


def _describe_lock(error: LockError) -> str:
    """Who holds the lock file that `error` names, as far as the file and the system tell."""
    try:
        path = ast.literal_eval(str(error).partition(' lock ')[2])
    except (ValueError, SyntaxError):
        return f'another process has it open ({error})'
    try:
        with open(path) as file:
            pid = int(file.read(100).split()[0])
        _send_nothing(pid)
    except (OSError, ValueError, IndexError):
        return f'another process has it open (lock file {path})'
    return f'process {pid}{_command_of(pid)} has it open (lock file {path})'


def _send_nothing(pid: int) -> None:
    """Raises ``OSError`` if there is no process `pid`."""
    with contextlib.suppress(PermissionError):  # it is there and belongs to somebody else
        os.kill(pid, 0)


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError), open(f'/proc/{pid}/cmdline', 'rb') as file:
        words = file.read(200).decode(errors='replace').split('\0')
        if command := ' '.join(words).strip():
            return f' ({command})'
    return ''


# -- the address ----------------------------------------------------------------------------------

def check_address(address: Address, runtime: Runtime = REAL) -> None:
    """Raises `StartError` if no server can listen at `address`.  For use before a storage is opened, and
    perhaps made: a mistake leaves nothing behind.  Nobody can connect yet."""
    try:
        probe_address(address, runtime)
    except OSError as error:
        raise _cannot_listen(address, error) from error


def probe_address(address: Address, runtime: Runtime = REAL) -> None:
    """The same, but raises OSError."""
    try_address(runtime, address)
    if isinstance(address, str):
        directory = os.path.dirname(address)
        if not os.access(directory, os.W_OK | os.X_OK):
            what = 'no permission to write in' if os.path.isdir(directory) else 'there is no directory'
            raise PermissionError(errno.EACCES, f'cannot listen at {address}: {what} {directory}')


def make_server(address: Address, storages: dict[str, Any], options: dict[str, Any]) -> Any:
    """A StorageServer that listens.  Raises `StartError`; the storages stay open then."""
    from zeo_clone.StorageServer import StorageServer
    try:
        return StorageServer(address, storages, **options)
    except LockError as error:  # a database that one server has for itself
        raise StartError(f'cannot serve: {_describe_lock(error)}; a RelStorage on SQLite is for one server: '
                         f'stop that process, or serve another database') from error
    except OSError as error:
        raise _cannot_listen(address, error) from error
    except ValueError as error:  # a storage that cannot be served, and keys that do not fit it
        raise StartError(f'cannot serve: {error}') from error


def raise_descriptor_limit(settings: dict[str, Any], storages: int, runtime: Runtime = REAL) -> None:
    """Let this process have the descriptors that a server with these options needs, as far as it may."""
    soft, _ = runtime.descriptor_limits()
    wanted = _descriptors(settings, storages, runtime)
    if wanted > soft:
        with contextlib.suppress(OSError, ValueError):  # the server does with those that there are
            runtime.raise_descriptor_limit(wanted)


def _descriptors(settings: dict[str, Any], storages: int, runtime: Runtime) -> int:
    soft, hard = runtime.descriptor_limits()
    return max(soft, min(hard, wanted_descriptors(storages, _max_connections(settings))))


def _max_connections(settings: dict[str, Any]) -> int:
    return settings.get('max_connections', MAX_CONNECTIONS)  # type: ignore[no-any-return]


def coming_limits(settings: dict[str, Any], storages: int, runtime: Runtime = REAL) -> Limits:
    """The limits that a server with these options will have."""
    return find_limits(runtime, storages, _max_connections(settings),
                       settings.get('frame_limit', DEFAULT_LIMIT), settings.get('memory_limit'),
                       _descriptors(settings, storages, runtime))


def describe_limits(limits: Limits, settings: dict[str, Any], storages: int) -> str:
    """What fits, in a line, and what is less than `settings` ask for."""
    frame = f'{limits.frame >> 20} MB' if limits.frame >> 20 else f'{limits.frame >> 10} KB'
    text = (f'room for {limits.connections} connections, {limits.strangers} of them not registered yet, with '
            f'{limits.descriptors} descriptors; {limits.memory >> 20} MB may wait for all together, a '
            f'message may have {frame}')
    if limits.frame < settings.get('frame_limit', DEFAULT_LIMIT):
        text += ', half of memory-limit'
    wanted = _max_connections(settings)
    if limits.connections < wanted:
        text += (f'. For max-connections {wanted} the process needs {wanted_descriptors(storages, wanted)} '
                 f'descriptors: raise its limit (ulimit -n, LimitNOFILE)')
    return text


class NoMonitor:
    """Stands for a monitor where none is wanted."""

    def begin(self, server: Any) -> None:
        """Do nothing: nobody wants to know."""

    def stop(self) -> None:
        """Do nothing: nobody wants to know."""


@contextlib.contextmanager
def start_monitor(address: Address | None, options: dict[str, Any]) -> Iterator[Any]:
    """A `Monitor` that listens at `address`, as long as the block runs.  Raises `StartError`."""
    if address is None:
        yield NoMonitor()
        return
    from zeo_clone.monitor.monitor import Monitor  # its library is optional
    try:
        monitor = Monitor(address, **options)
    except OSError as error:
        raise StartError(f"metrics-address: {error.strerror or error}; give the 'metrics-address' key "
                         'another address', BAD_ADDRESS) from error
    with contextlib.closing(monitor):
        logger.info('metrics at %smetrics, a page about the server at %s', monitor.url, monitor.url)
        yield monitor


def _cannot_listen(address: Address, error: OSError) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(f'cannot listen at {format_address(address)}: another server listens there; '
                            'stop it, or give another address', BAD_ADDRESS)
    text = str(error.strerror or error)
    advice = '' if ';' in text else "; give another address with -a or the 'address' key"
    return StartError(text + advice, BAD_ADDRESS)
