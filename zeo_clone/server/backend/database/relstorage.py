"""RelStorage on PostgreSQL, as far as this server asks it anything: SQL, the driver, private names.

In: a RelStorage that is open.  Out: connections, statements, the steps of a commit that RelStorage does not
offer.  Nothing else here knows any of that.  What is private in RelStorage may change with each version, so
it is used with those only that have been tried (`kinds`).

Besides RelStorage's tables there are three of ours:

    zeo_clone_identity  one row: which database this is (C22)
    zeo_clone_outcome   for each client the number and tid of its last transaction, and up to which number it
                        can have no more; the row is written in the transaction itself (C11)
    zeo_clone_log       without history only: the tids of transactions, and what they deleted, of which
                        RelStorage's tables keep nothing
"""
from __future__ import annotations

import binascii
import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ZODB.POSException import (
    ConflictError,
    ReadConflictError,
    StorageError,
    StorageTransactionError,
    UndoError,
)
from ZODB.utils import p64, u64, z64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.database.connecting import Connector, with_timeouts
from zeo_clone.server.backend.numbers import later_tid

#: The largest number that the database has for a tid or an oid.
MOST = (1 << 63) - 1
CHANNEL = 'zeo_clone'
#: Key of the lock under which our tables are made; RelStorage uses -1 and -2, and oids.
SETUP_LOCK = -20_119
#: Of a transaction that undoes others, until its end.
UNDO_LOCK = -20_120
#: The lock that each commit takes before it chooses its tid.
COMMIT_LOCK = -1
#: Outcomes and the log keep what is so many days old.
KEEP_DAYS = 30
DAY_S = 86_400
#: A server that stops between choosing a tid and COMMIT keeps others from committing no longer, in seconds.
FINISH_S = 10
#: The database takes no longer times than this, in seconds.
MOST_S = ((1 << 31) - 1) // 1000

#: What a database lacks that is there, by the codes of its errors: who asks again has to wait for somebody.
LACKS = {'53100': 'the disk of the database is full', '53200': 'the database has no memory left'}
#: How codes begin that say of a transaction that it stood in another one's way: deadlocks and their like.
IN_THE_WAY = '40'
#: A lock was waited for too long.
NO_LOCK = '55P03'
#: A statement before this one has failed, and with it the transaction.
FAILED_BEFORE = '25P02'
#: RelStorage undoes, or packs, once at a time, whoever does it.
PACK_OR_UNDO = 'another undo or a pack is under way in the database; try again later'

SETUP = '''
CREATE TABLE IF NOT EXISTS zeo_clone_identity (identity TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS zeo_clone_outcome (
    token BYTEA PRIMARY KEY, number BIGINT NOT NULL, tid BIGINT, fenced BIGINT NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE TABLE IF NOT EXISTS zeo_clone_log (
    tid BIGINT PRIMARY KEY, deleted BYTEA, at TIMESTAMPTZ NOT NULL DEFAULT now());
'''
PRUNE = '''
DELETE FROM zeo_clone_outcome WHERE at < now() - %(days)s * INTERVAL '1 day';
DELETE FROM zeo_clone_log WHERE at < now() - %(days)s * INTERVAL '1 day'
    AND tid < %(tid)s AND tid < (SELECT max(tid) FROM zeo_clone_log);
'''
#: Tids, and oids -> the locks that a vote takes for what it stores, in its order: of what these transactions
#: have written, and of these oids.
LOCK_OBJECTS = '''
SELECT count(pg_advisory_xact_lock(zoid)) FROM (
    SELECT zoid FROM object_state WHERE tid = ANY(%s::bigint[])
    UNION SELECT zoid FROM current_object WHERE zoid = ANY(%s::bigint[]) ORDER BY zoid) AS wanted
'''
#: Is there a pack of the time of one of these tids, or later?  Its list is filled before it removes anything,
#: and emptied when it has removed all.
PACKS_AT = 'SELECT 1 FROM pack_object WHERE keep_tid >= ANY(%s::bigint[]) LIMIT 1'
HOLD = "SELECT set_config('idle_in_transaction_session_timeout', %s, true)"
IDENTIFY = '''
INSERT INTO zeo_clone_identity SELECT %s WHERE NOT EXISTS (SELECT 1 FROM zeo_clone_identity)
'''
#: One row, unless it is fenced or a later one was committed; all servers hear of it when it is committed.
COMMITTED = f'''
WITH written AS (
    INSERT INTO zeo_clone_outcome AS known (token, number, tid, fenced)
    VALUES (%(token)s, %(number)s, %(tid)s, 0)
    ON CONFLICT (token) DO UPDATE SET number = excluded.number, tid = excluded.tid, at = now()
    WHERE GREATEST(known.fenced, known.number) < excluded.number RETURNING 1)
SELECT pg_notify('{CHANNEL}', %(tid)s::text) FROM written
'''
#: Waits for a COMMIT of the same client that is under way.
FENCE = '''
INSERT INTO zeo_clone_outcome AS known (token, number, tid, fenced) VALUES (%(token)s, 0, NULL, %(number)s)
ON CONFLICT (token) DO UPDATE SET fenced = GREATEST(known.fenced, excluded.fenced), at = now()
RETURNING number, tid
'''


#: Of an oid and a serial, if it is known.
OldRecord = Callable[[bytes, bytes], 'bytes | None']


class Statements:
    """What differs between databases with and without history."""

    def __init__(self, keeps_history: bool) -> None:
        current = 'current_object JOIN object_state USING (zoid, tid)' if keeps_history else 'object_state'
        log = 'transaction' if keeps_history else 'zeo_clone_log'
        #: Of a transaction: oids that it deleted, or null.  With history: null, or empty if a pack has been
        #: at it, which removes rows of objects that were written again before its time.  A pack marks all
        #: transactions up to that, in the order of tids, and then removes those of which nothing is left.
        note = "CASE WHEN packed THEN ''::bytea END" if keeps_history else 'deleted'
        #: Said first on a connection for loads.  The plan of the most frequent question is made once, and by
        #: index, even if there is so little in the database at that moment that no index seems worth while.
        self.prepare = f'''
            SET enable_seqscan = off;
            SET plan_cache_mode = force_generic_plan;
            PREPARE zeo_clone_current (bigint[]) AS
                SELECT zoid, tid, state FROM {current} WHERE zoid = ANY($1)'''
        #: Oids, as `array_of` writes them -> oid, tid, record.
        self.current = 'EXECUTE zeo_clone_current (%s)'
        #: Oids and tids -> oid, tid asked for, tid, record, tid of the next revision; nulls if there is none.
        self.before = '''
            SELECT wanted.zoid, wanted.before, found.tid, found.state,
                   (SELECT min(later.tid) FROM object_state AS later
                    WHERE later.zoid = wanted.zoid AND later.tid > found.tid)
            FROM unnest(%s::bigint[], %s::bigint[]) AS wanted (zoid, before)
            LEFT JOIN LATERAL (SELECT tid, state FROM object_state WHERE object_state.zoid = wanted.zoid
                AND object_state.tid < wanted.before ORDER BY tid DESC LIMIT 1) AS found ON TRUE'''
        self.revision = 'SELECT state FROM object_state WHERE zoid = %s AND tid = %s'
        self.from_oid = (f'SELECT zoid, tid, state FROM {current} WHERE zoid >= %s AND state IS NOT NULL '
                         f'ORDER BY zoid LIMIT 2')
        self.new_oids = "SELECT nextval('zoid_seq') FROM generate_series(1, %s)"
        self.last = f'SELECT GREATEST((SELECT max(tid) FROM object_state), (SELECT max(tid) FROM {log}), 0)'
        #: -> the last tid, and the identity.
        self.place = f'{self.last}, (SELECT min(identity) FROM zeo_clone_identity)'
        #: Tid, and limit -> tid, oid or null, note or null: all later transactions, and before them a row or
        #: two of that one, however many objects it has written.  Each part has the limit: all that is new
        #: would be sorted for each answer.
        self.since = f'''
            (SELECT tid, zoid, NULL::bytea FROM object_state WHERE tid = %(tid)s LIMIT 1)
            UNION ALL (SELECT tid, zoid, NULL FROM object_state WHERE tid > %(tid)s
                ORDER BY tid LIMIT %(limit)s)
            UNION ALL (SELECT tid, NULL, {note} FROM {log} WHERE tid >= %(tid)s
                ORDER BY tid LIMIT %(limit)s)
            ORDER BY 1 LIMIT %(limit)s'''
        #: How many transactions -> as `since`: the last ones, in any order.
        self.recent = f'''
            WITH first AS (SELECT min(tid) AS tid FROM (
                SELECT tid FROM {log} WHERE tid > 0 ORDER BY tid DESC LIMIT %s) AS latest)
            SELECT tid, zoid, NULL::bytea FROM object_state WHERE tid >= (SELECT tid FROM first)
            UNION ALL SELECT tid, NULL, {note} FROM {log} WHERE tid >= (SELECT tid FROM first)'''
        self.changed = '''SELECT DISTINCT zoid FROM object_state WHERE tid > %s AND tid <= %s'''
        self.has = (f'SELECT EXISTS (SELECT 1 FROM {log} WHERE tid = %s) OR '
                    f'EXISTS (SELECT 1 FROM object_state WHERE tid = %s)')
        self.deleted = ('SELECT deleted FROM zeo_clone_log '
                        'WHERE tid > %s AND tid <= %s AND deleted IS NOT NULL')


class Database:
    """The database of `storage`, for which `is_database` is true."""

    def __init__(self, storage: Any, runtime: Runtime) -> None:
        import psycopg2
        import psycopg2.extensions
        self._driver = psycopg2
        self._clock = runtime.time
        self._extensions = psycopg2.extensions
        self._storage = storage
        adapter = storage._adapter
        adapter._dsn = adapter.connmanager._dsn = with_timeouts(self._extensions, adapter._dsn)
        self._dsn = with_timeouts(self._extensions, adapter._dsn, application_name='zeo_clone')
        self._connector = Connector(runtime, psycopg2, self._extensions, self._dsn)
        self.keeps_history = bool(storage.keep_history)
        self.statements = Statements(self.keeps_history)
        self.identity = self._set_up(runtime.randbytes(16).hex())
        storage.sync()  # no snapshot of it stays open

    def __repr__(self) -> str:
        return f'<Database {self.identity}, {"with" if self.keeps_history else "without"} history>'

    def _set_up(self, instance: str) -> str:
        with self.connection() as cursor:
            cursor.execute('BEGIN')
            cursor.execute('SELECT pg_advisory_xact_lock(%s)', (SETUP_LOCK,))
            cursor.execute("SELECT to_regclass('zeo_clone_log')")
            if cursor.fetchone()[0] is None:
                cursor.execute(SETUP)
            if not self._storage.isReadOnly():
                cursor.execute(IDENTIFY, (instance,))
            cursor.execute('SELECT min(identity) FROM zeo_clone_identity')
            identity: str = cursor.fetchone()[0]
            cursor.execute('COMMIT')
        return identity

    # ---- connections ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def connection(self, timeout_s: float | None = None) -> Iterator[Any]:
        """The cursor of a connection of its own, each statement a transaction; a statement has that time."""
        connection = self._driver.connect(self._dsn)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                if timeout_s is not None:
                    cursor.execute('SELECT set_config(%s, %s, false)',
                                   ('statement_timeout', str(int(timeout_s * 1000))))
                yield cursor
        finally:
            connection.close()

    def connect(self) -> Any:
        """A connection for `advance`.  Raises what `is_away` knows.  For a thread that may wait."""
        return self._connector.connect()

    def advance(self, connection: Any) -> str:
        """Go on with what it does: 'read' or 'write' for what it waits, or 'done'."""
        state = connection.poll()
        if state == self._extensions.POLL_OK:
            return 'done'
        return 'write' if state == self._extensions.POLL_WRITE else 'read'

    def is_away(self, error: BaseException) -> bool:
        """Does `error` say that the database, or the connection to it, has gone, or that it would do the same
        at another moment?"""
        if isinstance(error, (self._driver.OperationalError, self._driver.InterfaceError)):
            return not self.lacks(error)
        if isinstance(error, self._driver.DatabaseError):
            return _code(error) is None
        return type(error) is Exception and str(error).startswith('Failed to close')  # RelStorage's

    def lacks(self, error: BaseException) -> bool:
        """Does `error` say that the database has no room?"""
        return _code(error) in LACKS

    def trouble(self, error: BaseException) -> str:
        """What is wrong, for one of these."""
        code = _code(error) or ''
        if code.startswith(IN_THE_WAY):
            return 'the database has ended this transaction in favour of another one'
        if code == NO_LOCK:
            return 'another transaction has kept what this one needs locked for too long'
        return LACKS.get(code, 'the database of the server is away')

    def is_busy(self, error: BaseException) -> bool:
        """Does `error` say that there is an undo or a pack already?"""
        return type(error).__name__ == 'UnableToAcquirePackUndoLockError'  # RelStorage's

    def translate(self, error: BaseException) -> Any:
        """The nearest exception that clients know."""
        return nearest(error, self._driver.Error)

    # ---- the steps of a commit: a committer's thread ------------------------------------------------

    def new_instance(self) -> Any:
        """Another instance of the storage, for one thread at a time."""
        return self._storage.new_instance()

    def begin(self, instance: Any, transaction: Any, old_record: OldRecord, hold_s: float | None) -> None:
        """``tpc_begin``; `old_record` gives a record of the past, if it knows it.

        If this server is stopped, not killed, meanwhile, what it holds in the database is free in `hold_s`.
        """
        instance.tpc_begin(transaction)
        state = instance._tpc_phase.shared_state
        if hold_s:
            state.store_connection.cursor.execute(HOLD, (f'{int(min(hold_s, MOST_S))}s',))
        state.cache = state.local_client = Past(self.statements.revision, state, old_record)

    def begin_given(self, instance: Any, transaction: Any, tid: bytes, status: str) -> None:
        """After `begin`: the transaction gets the tid `tid`.  Raises StorageTransactionError."""
        from relstorage.storage.tpc.restore import Restore
        phase = instance._tpc_phase
        cursor = phase.shared_state.store_connection.cursor
        cursor.execute('SELECT pg_advisory_xact_lock(%s)', (COMMIT_LOCK,))
        cursor.execute(self.statements.last)
        last = cursor.fetchone()[0]
        if u64(tid) <= last:
            raise StorageTransactionError(f'the tid {tid.hex()} is not later than the last one, '
                                          f'{p64(last).hex()}')
        instance._tpc_phase = Restore(phase, tid, status)

    def lock_for_undo(self, instance: Any, undo_ids: Iterable[bytes], oids: Iterable[bytes]) -> None:
        """After `begin`: nobody else can change what the transactions `undo_ids` wrote, nor `oids`, which are
        stored besides.  Raises UndoError where a pack has not been finished.

        RelStorage's undo compares, and then waits for those who are choosing their tids; it does not see what
        a transaction that has voted will have changed when it is committed.  Here that is waited for, as a
        vote does, before anything is compared: statements see what was committed before them.  All of them
        at once, for each undo keeps the lock of all commits from then on, for which voted transactions wait.

            T2     vote: has its objects            finish: COMMIT
            undo                   waits for these                   compares, has the commit lock
        """
        cursor = instance._tpc_phase.shared_state.store_connection.cursor
        cursor.execute('SELECT pg_advisory_xact_lock(%s)', (UNDO_LOCK,))
        tids = [tid for tid in map(_undone_tid, undo_ids) if tid is not None]
        cursor.execute(LOCK_OBJECTS, (tids, array_of(oids)))
        cursor.execute(PACKS_AT, (tids,))
        if cursor.fetchone():  # its undo would take objects away
            raise UndoError('a transaction that is to be undone is being packed, or the pack that was at it '
                            'has failed: what was before it may be gone')

    def undo_failed(self, instance: Any, error: Exception) -> Exception:
        """Why, if `error` says only that something has failed before.

        RelStorage wanted to let go of its lock for packs and undos then, in a transaction in which nothing
        can be done any more: the connection would keep it.
        """
        if _code(error) != FAILED_BEFORE:
            return error
        cursor = instance._tpc_phase.shared_state.store_connection.cursor
        with contextlib.suppress(self._driver.Error):  # then the connection has gone, and its locks too
            cursor.connection.rollback()
            cursor.execute('SELECT pg_advisory_unlock_all()')
        return error.__context__ if isinstance(error.__context__, Exception) else error

    def choose_tid(self, instance: Any) -> tuple[bytes, Any]:
        """After ``tpc_vote``: the transaction is whole in the database, but for its COMMIT; its tid, and the
        cursor of its connection."""
        phase = instance._tpc_phase
        state = phase.shared_state
        cursor = state.store_connection.cursor
        cursor.execute(HOLD, (f'{FINISH_S}s',))
        if not state.prepared_txn:
            phase._lock_and_move(vote_only=True)
        tid: bytes = phase.committing_tid_lock.tid
        return tid, cursor

    def write_outcome(self, cursor: Any, token: bytes, number: int, tid: bytes,
                      deleted: Iterable[bytes]) -> bool:
        """Note in the same transaction that number `number` of the client `token` is `tid`.  False if fenced,
        or if a later one was committed.

        When it is committed all servers hear of it.
        """
        if not self.keeps_history:
            cursor.execute('INSERT INTO zeo_clone_log (tid, deleted) VALUES (%s, %s)',
                           (u64(tid), b''.join(deleted) or None))
        cursor.execute(COMMITTED, {'token': token, 'number': number, 'tid': u64(tid)})
        return bool(cursor.rowcount == 1)

    def fence(self, cursor: Any, token: bytes, number: int) -> tuple[int, bytes | None]:
        """The last transaction of the client that was committed, number and tid; from now on none up to
        `number` can be."""
        cursor.execute(FENCE, {'token': token, 'number': number})
        known, tid = cursor.fetchone()
        return known, None if tid is None else p64(tid)

    # ---- other work: any thread but the loop's ------------------------------------------------------

    def prune(self) -> None:
        """Forget outcomes and transactions that nobody asks for any more."""
        if not self._storage.isReadOnly():
            # By the tid there is an index; a transaction that was copied may have an older one than its time.
            tid = later_tid(z64, self._clock() - KEEP_DAYS * DAY_S)
            with self.connection() as cursor:
                cursor.execute(PRUNE, {'days': KEEP_DAYS, 'tid': u64(tid)})

    def measure(self) -> tuple[int, int]:
        """Objects, about, and bytes."""
        length: int = len(self._storage)
        return length, int(self._storage.getSize())


class Past:
    """Stands for RelStorage's caches in one transaction: these know a snapshot, and what is older is not in a
    database without history."""

    def __init__(self, revision: str, state: Any, old_record: OldRecord) -> None:
        self._revision = revision  # the statement
        self._state = state
        self._old_record = old_record

    def prefetch_for_conflicts(self, _: object, wanted: Iterable[tuple[int, int]]
                               ) -> dict[int, tuple[bytes, int]]:
        """The records on which changes are based, by oid, with their tids.  Raises ConflictError."""
        cursor = self._state.store_connection.cursor
        found = {}
        for oid, tid in wanted:
            record = self._old_record(p64(oid), p64(tid))
            if record is None:
                cursor.execute(self._revision, (oid, tid))
                row = cursor.fetchone()
                record = bytes(row[0]) if row and row[0] is not None else None
            if record is None:
                raise ConflictError(oid=p64(oid), serials=(None, p64(tid)))
            found[oid] = record, tid
        return found

    def contains_oid_with_newer_tid(self, oid: int, tid: int) -> None:
        """The database finds that out at the vote."""

    def after_tpc_finish(self, tid: bytes, temp_storage: Any) -> None:
        """Nothing is kept."""

    def remove_cached_data(self, oid: int, tid: int) -> None:
        """Nothing is kept."""

    def remove_all_cached_data_for_oids(self, oids: Iterable[int]) -> None:
        """Nothing is kept."""


def nearest(error: BaseException, of_driver: type[BaseException]) -> Any:
    """The nearest exception that clients know."""
    if isinstance(error, of_driver) and not isinstance(error, StorageError):
        what = LACKS.get(_code(error) or '', f'the database: {type(error).__name__}')
        return StorageError(f'{what}: {" ".join(str(error).split())[:500]}')
    kind = type(error)
    if not isinstance(error, ConflictError) or kind.__module__ == 'ZODB.POSException':
        return error
    base = ReadConflictError if isinstance(error, ReadConflictError) else ConflictError
    text = str(error.message or '').split('\n')[0]
    told: ConflictError = base(text or kind.__name__, oid=error.oid, serials=error.serials)
    told.class_name = error.class_name
    return told


def _undone_tid(undo_id: bytes) -> int | None:
    """The number of the transaction; None if it is none, which the undo itself says."""
    try:
        tid = binascii.a2b_base64(undo_id)
    except binascii.Error:
        return None
    return number_of(tid) if len(tid) == 8 else None


def _code(error: BaseException) -> str | None:
    """What PostgreSQL calls `error`; None if it comes from elsewhere."""
    return getattr(error, 'pgcode', None)


def record_of(value: Any) -> bytes | None:
    """A record as the database gives it."""
    return None if value is None else bytes(value)


def number_of(value: bytes) -> int:
    """The number of an oid or a tid, as far as the database has such numbers."""
    number: int = u64(value)
    return min(number, MOST)


def array_of(oids: Iterable[bytes]) -> str:
    """Numbers of `oids` as the database reads them quickest."""
    return f'{{{",".join([str(number_of(oid)) for oid in oids])}}}'
