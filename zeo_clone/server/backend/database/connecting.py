"""Connections to PostgreSQL: what is added to a data source name, and one host after the other.

In: a DSN.  Out: connections that are used asynchronously once they are there.  To make one is for a thread
that may wait: names are looked up, and a host that does not answer is waited for, each for its
``connect_timeout`` (libpq has none where a connection is made asynchronously, and would never come to the
second host).
"""
from __future__ import annotations

from typing import Any

from zeo_clone.loop.runtime import Runtime

#: Added for all connections, unless it is there: what is sent to a machine that has gone fails in so long.
TIMEOUTS = {'connect_timeout': '10', 'keepalives_idle': '10', 'keepalives_interval': '3',
            'keepalives_count': '3', 'tcp_user_timeout': '20000'}
#: libpq takes less than that for that.
LEAST_TIMEOUT_S = 2
#: What has one value for each host, with commas between.
LISTS = ('host', 'hostaddr', 'port')


def with_timeouts(extensions: Any, dsn: str, **more: str) -> str:
    """`dsn` with `TIMEOUTS` and `more`, unless it has them."""
    made: str = extensions.make_dsn(**{**TIMEOUTS, **more, **extensions.parse_dsn(dsn)})
    return made


def one_by_one(extensions: Any, dsn: str) -> list[str]:
    """`dsn` for each of its hosts."""
    given = extensions.parse_dsn(dsn)
    lists = {key: given[key].split(',') for key in LISTS if given.get(key)}
    count = max((len(values) for key, values in lists.items() if key != 'port'), default=1)
    if count == 1 or any(len(values) not in (1, count) for values in lists.values()):
        return [dsn]
    return [extensions.make_dsn(**{**given, **{key: values[number if len(values) > 1 else 0]
                                               for key, values in lists.items()}})
            for number in range(count)]


class Connector:
    """Of `driver`, which is psycopg2, to the first host of `dsn` that has what is asked for."""

    def __init__(self, runtime: Runtime, driver: Any, extensions: Any, dsn: str) -> None:
        self._runtime = runtime
        self._driver = driver
        self._extensions = extensions
        self._dsns = one_by_one(extensions, dsn)
        timeout_s = int(extensions.parse_dsn(dsn)['connect_timeout'])
        self._timeout_s = max(LEAST_TIMEOUT_S, timeout_s) if timeout_s > 0 else None

    def connect(self) -> Any:
        """A connection that is there.  Raises OperationalError of the driver."""
        troubles: list[str] = []
        for dsn in self._dsns:
            connection = self._connect(dsn, troubles)
            if connection is not None:
                return connection
        raise self._driver.OperationalError('; '.join(troubles))

    def _connect(self, dsn: str, troubles: list[str]) -> Any:
        connection = None
        try:
            connection = self._driver.connect(dsn, async_=True)
            self._wait_for(connection)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, self._driver.OperationalError):
                raise
            troubles.append(str(error).strip())
            return None
        return connection

    def _wait_for(self, connection: Any) -> None:
        clock = self._runtime.monotonic
        until = None if self._timeout_s is None else clock() + self._timeout_s
        extensions = self._extensions
        while (state := connection.poll()) != extensions.POLL_OK:
            rest = None if until is None else until - clock()
            reads = state == extensions.POLL_READ
            if rest is not None and rest <= 0 or not self._runtime.wait(
                    connection.fileno(), reads, not reads, rest):
                raise self._driver.OperationalError(
                    f'there is no answer within {self._timeout_s} s (connect_timeout)')
