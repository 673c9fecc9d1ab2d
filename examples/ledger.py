"""A small ledger with double-entry bookkeeping, in a file or on a server.

What it shows: a program need not know where its database is.  One that was written for a local file works
for many people at once after one line of its configuration was changed.

How to start it: with a configuration.  Each entry moves money between accounts, so its amounts sum to 0.

    python examples/ledger.py examples/ledger.conf add "Opening" cash 100 equity -100
    python examples/ledger.py examples/ledger.conf add "Coffee and a cake" food 6.40 tips 0.60 cash -7
    python examples/ledger.py examples/ledger.conf balance
    python examples/ledger.py examples/ledger.conf history cash

Then start a server for the file, `zeo-clone serve -a localhost:9100 -f ledger.fs`, and write
ledger-server.conf in place of ledger-local.conf in ledger.conf.

What to look at: an entry that does not sum to 0 is refused.  With a file, a second program that is started
meanwhile is refused, too; with a server any number of them can post to the same account at the same moment.
"""
from __future__ import annotations

import argparse
import datetime
import sys
from decimal import Decimal, InvalidOperation

import transaction
import ZConfig
import ZODB.config
from BTrees.LOBTree import LOBTree
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from transaction.interfaces import TransientError
from zc.lockfile import LockError
from ZODB.POSException import ConflictError

from zeo_clone.Exceptions import CommitOutcomeUnknown

#: How often a transaction is tried before we give up.
ATTEMPTS = 100
CENT = Decimal('0.01')
#: Amounts are smaller than this; so sums of them are exact.
LIMIT = Decimal(10) ** 12


class Refused(Exception):
    """This cannot be entered; the text says why."""


# ---- the books --------------------------------------------------------------------------------------

class Account(Persistent):
    """An account.  Who posts to it at the same moment as somebody else gets a ConflictError."""

    def __init__(self):
        self.balance = Decimal(0)


class Ledger(Persistent):
    """All accounts and all entries.  The balances of all accounts always sum to 0."""

    def __init__(self):
        self.accounts = OOBTree()  # {name: Account}
        self.entries = LOBTree()   # {number: (date, text, [(name of the account, amount), ...])}

    def add(self, text, postings):
        """Enter `postings`, ``[(name, amount), ...]``; returns the entry's number.  Raises Refused."""
        check(postings)
        number = self.entries.maxKey() + 1 if self.entries else 1
        self.entries[number] = datetime.date.today().isoformat(), text, postings
        for name, amount in postings:
            if name not in self.accounts:
                self.accounts[name] = Account()
            self.accounts[name].balance += amount
        return number

    def history(self, name):
        """The entries that concern an account: ``[(number, date, text, amount, balance), ...]``."""
        if name not in self.accounts:
            raise Refused(f'there is no account {name}')
        lines, balance = [], Decimal(0)
        for number, (date, text, postings) in self.entries.items():
            amount = sum(amount for other, amount in postings if other == name)
            if any(other == name for other, _ in postings):
                balance += amount
                lines.append((number, date, text, amount, balance))
        return lines


def check(postings):
    """Raise Refused unless the postings are an entry."""
    if len(postings) < 2:
        raise Refused('an entry needs two postings or more: what one account gets, another one gives')
    total = sum(amount for _, amount in postings)
    if total != 0:
        raise Refused(f'the entry does not balance: its postings sum to {total}, not to 0')


def parse_amount(text):
    """An amount of money: a Decimal with two digits after the point.  Raises Refused."""
    try:
        amount = Decimal(text)
        if abs(amount) < LIMIT and amount == amount.quantize(CENT):
            return amount.quantize(CENT)
    except InvalidOperation:
        pass  # not a number
    raise Refused(f'{text!r} is not an amount: a number with at most two digits after the point')


def parse_postings(words):
    """``['cash', '5', 'food', '-5']`` as ``[('cash', Decimal('5.00')), ...]``.  Raises Refused."""
    if len(words) % 2:
        raise Refused(f'there is no amount for the account {words[-1]!r}')
    return [(name, parse_amount(text)) for name, text in zip(words[::2], words[1::2], strict=True)]


# ---- the commands -----------------------------------------------------------------------------------

def open_database(config):
    """The database that `config` describes."""
    try:
        return ZODB.config.databaseFromURL(config)
    except ConflictError:
        # A database begins with its root.  Somebody else has found it empty at the same moment and made one.
        return ZODB.config.databaseFromURL(config)


def open_ledger(connection):
    """The ledger, made if there is none.  The caller commits."""
    root = connection.root()
    if 'ledger' not in root:
        root['ledger'] = Ledger()
    return root['ledger']


def add(connection, given):
    postings = parse_postings(given.postings)
    for attempt in transaction.manager.attempts(ATTEMPTS):
        with attempt:
            number = open_ledger(connection).add(given.text, postings)
    print('entered as number', number)


def balance(connection, given):
    with transaction.manager:
        accounts = open_ledger(connection).accounts
        for name, account in accounts.items():
            print(f'{account.balance:>14}  {name}')
        print(f'{sum(account.balance for account in accounts.values()):>14}  sum')


def history(connection, given):
    with transaction.manager:
        for number, date, text, amount, balance in open_ledger(connection).history(given.account):
            print(f'{number:>6}  {date}  {amount:>14}  {balance:>14}  {text}')


def parse(args):
    parser = argparse.ArgumentParser(prog='ledger.py', description='Keep books.')
    parser.add_argument('config', metavar='CONFIG', help='configuration of the database, like ledger.conf')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    adder = commands.add_parser('add', help='make an entry')
    adder.add_argument('text', metavar='TEXT', help='what it is about')
    adder.add_argument('postings', metavar='ACCOUNT AMOUNT', nargs='+', help='together they sum to 0')
    adder.set_defaults(do=add)
    commands.add_parser('balance', help='show all accounts').set_defaults(do=balance)
    teller = commands.add_parser('history', help='show what happened on an account')
    teller.add_argument('account', metavar='ACCOUNT')
    teller.set_defaults(do=history)
    return parser.parse_args(args)


def main(args=None):
    given = parse(args)
    try:
        db = open_database(given.config)
    except LockError:
        sys.exit('ledger.py: the books are open in another program; on a server both could use them')
    except (ZConfig.ConfigurationError, TransientError, OSError) as error:
        sys.exit(f'ledger.py: {error}')
    try:
        given.do(db.open(), given)
    except (Refused, TransientError) as error:
        sys.exit(f'ledger.py: {error}')
    except CommitOutcomeUnknown as error:
        sys.exit(f'ledger.py: look at the history before you enter this again: {error}')
    finally:
        db.close()


if __name__ == '__main__':
    # Classes are stored under the name of their module, which must not be __main__; see chatter.py.
    import ledger
    ledger.main()
