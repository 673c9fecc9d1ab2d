"""A database that is a list of transactions: answers come when a test says so, as of when they were asked."""
from __future__ import annotations

from ZODB.utils import p64

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.backend.database.relstorage import Statements


class Runtime(ClockRuntime):
    """One without threads: what they would do is done at once, unless there are `none`."""

    none = False

    def start_thread(self, target, name, *, daemon=True):
        if self.none:
            raise RuntimeError("can't start new thread")
        target()


class Loop(HandLoop):
    """One without descriptors, and with nobody outside."""

    def __init__(self):
        super().__init__(Runtime())

    def door(self, callback):
        callback()

    def register(self, dispatcher):
        """Nothing is polled."""

    unregister = register

    def set_interest(self, fd, mask):
        """Nothing is polled."""


class Cursor:
    def __init__(self, connection):
        self._connection = connection
        self._rows = []
        self.description = True

    def execute(self, statement, arguments):
        self._connection.asked = True
        self._rows = self._connection.database.answer(statement, arguments)

    def fetchall(self):
        return self._rows

    def close(self):
        """Nothing is open."""


class Connection:
    """`asked`: there is an answer, which waits for `Double.deliver`."""

    def __init__(self, database, number):
        self.database = database
        self.number = number
        self.asked = False
        self.closed = False
        self.notifies = []

    def cursor(self):
        return Cursor(self)

    def fileno(self):
        return self.number

    def close(self):
        self.closed = True


class Double:
    """Transactions: ``{oid: data}`` by number.  Each has a row of its own, apart from those in `unlogged`; a
    pack has been at those in `packed`."""

    def __init__(self, keeps_history=True):
        self.keeps_history = keeps_history
        self.statements = Statements(keeps_history)
        self.transactions = {}
        self.connections = []
        self.away = False
        self.refuses = False  # to tell what is new
        self.unlogged, self.packed = set(), set()
        self.identity = None
        self.asked_for_news = 0
        self.limits = []  # of these questions

    def commit(self, tid, records):
        self.transactions[tid] = records

    def revisions(self, oid):
        """``[(tid, data)]``, the first one first."""
        return [(tid, records[oid]) for tid, records in sorted(self.transactions.items()) if oid in records]

    def answer(self, statement, arguments):
        known = self.statements
        if statement == known.current:
            oids = map(int, arguments[0].strip('{}').split(','))
            found = [(oid, self.revisions(oid)) for oid in oids]
            return [(oid, *revisions[-1]) for oid, revisions in found if revisions]
        if statement == known.before:
            return [self._before(oid, before) for oid, before in zip(*arguments, strict=True)]
        if statement == known.since:
            self.asked_for_news += 1
            self.limits.append(arguments['limit'])
            last, rows = arguments['tid'], []
            for tid, records in sorted(self.transactions.items()):
                if tid >= last:
                    note = b'' if self.keeps_history and tid in self.packed else None
                    rows += [] if tid in self.unlogged else [(tid, None, note)]
                    rows += [(tid, oid, None) for oid in records][:1 if tid == last else None]
            return rows[:arguments['limit']]
        if statement == known.place:
            return [(max(self.transactions, default=0), self.identity)]
        return []

    def _before(self, oid, before):
        revisions = self.revisions(oid)
        earlier = [revision for revision in revisions if revision[0] < before]
        if not earlier:
            return oid, before, None, None, None
        later = [tid for tid, _ in revisions if tid > earlier[-1][0]]
        return oid, before, *earlier[-1], later[0] if later else None

    # ---- what lines need -----------------------------------------------------------------------------

    def connect(self):
        if self.away:
            raise ConnectionError('away')
        self.connections.append(Connection(self, 1000 + len(self.connections)))
        return self.connections[-1]

    def advance(self, connection):
        if self.away:
            connection.closed = True
            raise ConnectionError('away')
        if self.refuses and not connection.asked:
            raise ValueError('refused')
        return 'read' if connection.asked else 'done'

    def is_away(self, error):
        return isinstance(error, (ConnectionError, TimeoutError))

    # ---- what tests do -------------------------------------------------------------------------------

    def deliver(self, line):
        """Let the answer that `line` waits for come, if there is one."""
        connection = line._connection
        if connection is not None and connection.asked:
            connection.asked = False
            line.advance()


def oid_of(number):
    return p64(number)
