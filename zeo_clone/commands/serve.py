"""runzeo: serve storages from the command line.

In: the command line and a zeo.conf.  Out: a StorageServer that runs in the main thread until a signal
comes, and an exit code.  Refuses to know the protocol, and how the server does its work.

Exit codes: 0 stopped by TERM or INT; 1 stopped by HUP, or the server could not start; 2 the command line
or the configuration is wrong, an address in use included: then no storage has been touched.
"""
from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import ZConfig

from zeo_clone.addresses import Address, format_address, parse_address
from zeo_clone.commands.options import add_version, argument
from zeo_clone.commands.process import Signals, StartError, check_pid_file, notify, pid_file, start_logging
from zeo_clone.commands.startup import (
    AddressInUse,
    StorageSource,
    check_address,
    close_storages,
    coming_limits,
    create_roots,
    describe_limits,
    make_server,
    open_storages,
    raise_descriptor_limit,
    start_monitor,
    try_storage,
)
from zeo_clone.commands.tlsoptions import NAMES as TLS_NAMES
from zeo_clone.commands.tlsoptions import add_tls_options, tls_from
from zeo_clone.configuration import relay, zconfig
from zeo_clone.configuration.filestorage import open_file
from zeo_clone.configuration.places import Place, find_clash, open_section, places_of
from zeo_clone.server.backend.database.kinds import describe_section, is_section, try_section

PROGRAM = 'runzeo'
DEFAULT_ADDRESS = ('localhost', 9100)
DEFAULT_FILE = 'Data.fs'
USAGE_ERROR = 2  # exit code, as argparse has it
#: A thread that packs or undoes lets the loop's thread go on after so many seconds.  With Python's own 5 ms
#: clients would wait for that several times in each request.
SWITCH_INTERVAL_S = 0.0005

logger = logging.getLogger('zeo_clone')

#: Options of the server that only databases have, and their keys.
DATABASE_KEYS = {'poll_interval_s': 'poll-interval', 'read_connections': 'read-connections',
                 'commit_connections': 'commit-connections',
                 'server_cache_size': 'server-cache-size', 'database_patience_s': 'database-patience'}


class Settings(NamedTuple):
    """All that a command line and a zeo.conf say; `options` are keywords for StorageServer."""

    address: Address
    sources: list[StorageSource]
    options: dict[str, Any]
    pid_file: str | None
    eventlog: Callable[[], object] | None
    defaults_used: str
    metrics_address: Address | None = None
    monitor: dict[str, Any] = {}  # keywords for Monitor
    create_root: bool = True


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of runzeo's options; it exits with code 2 and one line if they are wrong."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Serve ZODB storages to clients on the network.',
        epilog='ADDRESS is PORT (all interfaces), HOST:PORT, [IPv6]:PORT, or the PATH of a unix socket, '
               'with a / in it.  Options take the place of what the configuration says.  Signals: TERM '
               'and INT stop the server, USR2 reopens log files.')
    parser.add_argument('-C', '--configure', metavar='URL', help='configuration: file or URL (zeo.conf)')
    parser.add_argument('-a', '--address', type=argument(parse_address), metavar='ADDRESS',
                        help='where to listen; without -C the default is localhost:9100')
    parser.add_argument('-f', '--filename', action='append', metavar='FILENAME', type=argument(_filename),
                        help='FileStorage to serve, made if it is not there; may be repeated, for '
                             'storages 1, 2 and so on; without -C the default is ./Data.fs')
    parser.add_argument('--relay', action='append', metavar='ADDRESS', type=argument(_server_address),
                        help='serve what the server at this address serves, from a cache that all clients '
                             'here share; may be repeated: the same storage at several servers')
    parser.add_argument('--cache', metavar='PATH', help='with --relay: the file of the cache, kept over '
                        f'restarts; the default is {relay.CACHE}')
    parser.add_argument('--cache-size', metavar='SIZE', type=argument(zconfig.byte_size),
                        help=f'with --relay: bytes, or with KB, MB, GB; the default is '
                             f'{relay.CACHE_SIZE >> 20}MB')
    add_tls_options(parser, 'the connection of --relay to the server above; that of clients is encrypted by '
                            '<ssl> in a configuration')
    parser.add_argument('-t', '--timeout', type=argument(zconfig.seconds), metavar='TIMEOUT',
                        help='seconds that a client may hold the commit lock between vote and finish; '
                             'the default is 30; 0 is no limit')
    parser.add_argument('--pid-file', metavar='PATH', help='where to write the process id while serving')
    parser.add_argument('--check', action='store_true',
                        help='only say whether options and configuration are right; open nothing, but ask '
                             'databases whether they are there')
    add_version(parser)
    return parser


def _filename(text: str) -> str:
    if not text:
        raise ValueError('no file is named, the text is empty')
    return text


def read_settings(given: argparse.Namespace) -> Settings:
    """Settings from a parsed command line.  Raises `StartError`."""
    _check_relay(given)
    if given.configure is not None:
        settings = _from_configuration(given.configure, given.filename or [])
    else:
        sources = _relay_sources(given) or _file_sources(given.filename or [DEFAULT_FILE], group_commit=True)
        settings = Settings(DEFAULT_ADDRESS, sources, {}, None, None, _defaults_used(given))
    clash = find_clash((source.name, source.places) for source in settings.sources)
    if clash is not None:
        raise StartError(clash if given.filename or given.configure is None else
                         f'{clash} ({given.configure})', USAGE_ERROR)
    options = settings.options
    if given.timeout is not None:
        options = {**options, 'transaction_timeout': given.timeout}
    address = settings.address if given.address is None else given.address
    if address == settings.metrics_address and address[1] != 0:
        raise StartError(f'metrics-address {format_address(address)} is the address of this server itself; '
                         f'give it another port ({given.configure})', USAGE_ERROR)
    return settings._replace(options=options, address=address, pid_file=given.pid_file or settings.pid_file)


def _check_keys(options: dict[str, Any], factories: list[Any], url: str) -> None:
    """Are there keys for databases, but no database?  Raises `StartError`, before anything is opened."""
    given = [key for name, key in DATABASE_KEYS.items() if options[name] is not None]
    if given and not any(map(is_section, factories)):
        raise StartError(f'bad configuration: {", ".join(given)} in <zeo>: for databases only, and no '
                         f'storage here is one (RelStorage on PostgreSQL); remove it ({url})', USAGE_ERROR)


def _from_configuration(url: str, filenames: list[str]) -> Settings:
    try:
        configuration = zconfig.load(url)
    except ZConfig.ConfigurationError as error:
        hint = ('; it comes with: pip install "zeo_clone[postgresql]"'
                if 'could not load package relstorage' in str(error) else '')
        raise StartError(f'bad configuration: {error}{hint}', USAGE_ERROR) from error
    zeo = configuration.zeo
    _check_keys(zeo.options, [] if filenames else list(configuration.storages.values()), url)
    sources = _file_sources(filenames, zeo.group_commit) or [
        StorageSource(name, _place(factory), partial(open_section, factory), partial(try_section, factory),
                      places_of(factory))
        for name, factory in configuration.storages.items()]
    if not sources:
        raise StartError(f'nothing to serve: give {url} a storage section, such as <filestorage>, or '
                         'name a file with -f', USAGE_ERROR)
    return Settings(zeo.address, sources, zeo.options, zeo.pid_filename, configuration.eventlog, '',
                    zeo.metrics_address, zeo.monitor, zeo.create_root)


def _file_sources(filenames: Sequence[str], group_commit: bool) -> list[StorageSource]:
    return [StorageSource(str(number), path, partial(open_file, path, group_commit),
                          places=[Place('-f', path)]) for number, path in enumerate(filenames, 1)]


def _server_address(text: str) -> Address:
    """Where a server is: without a host, on this machine."""
    address = parse_address(text)
    if isinstance(address, str):
        return address
    if not address[1]:
        raise ValueError(f'{text!r} has no port at which a server could be')
    return address[0] or 'localhost', address[1]


def _check_relay(given: argparse.Namespace) -> None:
    for other in 'configure', 'filename':
        if given.relay and getattr(given, other):
            raise StartError(f'--relay and --{other} exclude each other: with a configuration, a '
                             f'<zeo-clone-client> section does what --relay does', USAGE_ERROR)
    if not given.relay and (given.cache is not None or given.cache_size is not None):
        raise StartError('--cache and --cache-size are for --relay ADDRESS, which is not given', USAGE_ERROR)
    if not given.relay and any(getattr(given, name) for name in TLS_NAMES):
        raise StartError('--ssl and its like are for --relay ADDRESS, which is not given; clients are served '
                         'with TLS by a section <ssl> in <zeo> of a configuration (-C)', USAGE_ERROR)
    own = given.address or DEFAULT_ADDRESS
    if given.relay and (own if isinstance(own, str) else (own[0] or 'localhost', own[1])) in given.relay:
        raise StartError(f'--relay {format_address(own)} is the address of this server itself; give it '
                         f'another one with -a', USAGE_ERROR)


def _relay_sources(given: argparse.Namespace) -> list[StorageSource]:
    if not given.relay:
        return []
    cache = given.cache or relay.CACHE
    size = relay.CACHE_SIZE if given.cache_size is None else given.cache_size
    try:
        tls = tls_from(given)
    except (OSError, ValueError) as error:
        raise StartError(f'TLS to the server above: {error}', USAGE_ERROR) from error
    encrypted = {} if tls is None else {'ssl': tls.context, 'ssl_server_hostname': tls.hostname}
    return [StorageSource('1', relay.place(given.relay, cache),
                          partial(relay.open_relay, given.relay, cache, size, **encrypted))]


def _place(factory: Any) -> str:
    if isinstance(factory, zconfig.ClientStorageSection):
        return f'of the server at {" or ".join(map(format_address, factory.addresses))}'
    database = describe_section(factory)
    if database is not None:
        return database
    config = getattr(factory, 'config', None)
    return getattr(config, 'path', None) or type(factory).__name__.removesuffix('Factory')


def _defaults_used(given: argparse.Namespace) -> str:
    used = []
    if not given.filename and not given.relay:
        used.append(f'file ./{DEFAULT_FILE} (another: -f)')
    if given.address is None:
        used.append(f'address {format_address(DEFAULT_ADDRESS)} (another: -a)')
    return ' and '.join(used)


def serve(settings: Settings, signals: Signals) -> None:
    """Open, serve until a signal comes, close.  Raises `StartError`."""
    if settings.defaults_used:
        logger.info('by default: %s', settings.defaults_used)
    check_address(settings.address)
    check_pid_file(settings.pid_file)
    raise_descriptor_limit(settings.options, len(settings.sources))
    with start_monitor(settings.metrics_address, settings.monitor) as monitor:
        storages = open_storages(settings.sources, signals.opening)
        try:
            if settings.create_root and not settings.options.get('read_only'):
                create_roots(storages)
            server = make_server(settings.address, storages, settings.options)
        except BaseException:
            close_storages(storages)
            raise
        serve_with(server, storages, monitor, settings, signals)


def serve_with(server: Any, storages: dict[str, Any], monitor: Any, settings: Settings,
               signals: Signals) -> None:
    """Run `server` until a signal comes, and close it.  Raises `StartError`."""
    with contextlib.closing(server), pid_file(settings.pid_file):
        signals.stop_with(server.stop)
        place = format_address(server.addr)
        logger.info('%s', describe_limits(server.limits, settings.options, len(storages)))
        if not isinstance(settings.address, str) and not settings.address[1]:
            logger.warning('no port is configured: the system has picked that of %s, and picks another one '
                           'at the next start', place)
        for source in settings.sources:
            # What RelStorage calls itself is for its developers.
            name = storages[source.name].getName()
            shown = source.place if name.startswith('RelStorage: ') else name
            logger.info('serving storage %r (%s) at %s', source.name, shown, place)
        monitor.begin(server)
        tune_process()
        notify('READY=1')
        server.loop()
        monitor.stop()
        logger.info('stopping%s', f' on {signals.received.name}' if signals.received else '')
        notify('STOPPING=1')


def tune_process() -> None:
    """Once all is open, tune a process that only serves: clients shall not wait for what it does besides."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.collect()
    # What is there now stays for good.  To look through it again and again for garbage would take 10 ms each
    # time, and longer with a large index.
    gc.freeze()


def describe(settings: Settings) -> str:
    """What would be served, and where, in lines.  Raises `StartError`."""
    place, taken = format_address(settings.address), False
    try:
        check_address(settings.address)
    except AddressInUse:  # by the server that is to be replaced, perhaps
        taken = True
    check_pid_file(settings.pid_file)
    lines = [f'would serve storage {source.name!r} ({source.place}) at {place}'
             for source in settings.sources]
    lines += [f'storage {source.name!r}: {found}' for source in settings.sources
              if (found := try_storage(source)) is not None]
    count, options = len(settings.sources), settings.options
    lines.append('would have ' + describe_limits(coming_limits(options, count), options, count))
    if settings.metrics_address is not None:
        lines.append(f'would serve metrics at {format_address(settings.metrics_address)}')
    if taken:
        lines.append(f'just now another server listens at {place}: stop it first')
    return '\n'.join(lines)


def run(settings: Settings) -> int:
    """Serve as `settings` say; the exit code.  Raises `StartError`."""
    start_logging(settings.eventlog)
    try:
        with contextlib.closing(Signals()) as signals:
            serve(settings, signals)
            return signals.exit_code
    except StartError as error:
        if settings.eventlog is not None:  # the log is elsewhere
            logger.critical('%s', error)
        raise


class ZEOOptions:
    """What ZEO's class of this name is to programs that start a server: `realize`, then `ZEOServer`."""

    def __init__(self) -> None:
        self.settings: Settings | None = None

    def realize(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> None:
        """Read a command line, by default that of the process.  Exits with code 2 if it is wrong."""
        try:
            self.settings = read_settings(command_line().parse_args(args))
        except StartError as error:
            sys.exit(f'{PROGRAM}: {error}')

    @property
    def address(self) -> Address:
        """Where to listen."""
        return self._realized().address

    @property
    def storages(self) -> list[StorageSource]:
        """What to serve: each has a `name` and `open`."""
        return self._realized().sources

    @property
    def pid_file(self) -> str | None:
        """Where to write the process id."""
        return self._realized().pid_file

    def _realized(self) -> Settings:
        if self.settings is None:
            raise ValueError('nothing has been read yet: call realize(args) first')
        return self.settings


class ZEOServer:
    """What ZEO's class of this name is to programs that start a server."""

    def __init__(self, options: ZEOOptions) -> None:
        self.options = options

    def main(self) -> None:
        """Serve until a signal comes.  Main thread only.  Exits with a code other than 0 if it cannot."""
        try:
            code = run(self.options._realized())
        except StartError as error:
            print(f'{PROGRAM}: {error}', file=sys.stderr)
            code = error.exit_code
        if code:
            sys.exit(code)


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Run the server until a signal stops it; the exit code.  Main thread only.

    `args` defaults to the command line, `prog` is the command's name in messages.  Exits through
    ``SystemExit`` for ``--help`` and wrong options.
    """
    given = command_line(prog).parse_args(args)
    try:
        settings = read_settings(given)
        if given.check:
            print(describe(settings))
            return 0
        return run(settings)
    except StartError as error:
        print(f'{prog}: {error}', file=sys.stderr)
        return error.exit_code
