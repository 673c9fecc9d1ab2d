"""Bugs of servers: the commit lock, the history, outcomes, the disk."""
from __future__ import annotations

from functools import partial
from typing import Any

from simulation.planted import Patch, plant
from zeo_clone.server.audience.audience import Audience
from zeo_clone.server.audience.history import History
from zeo_clone.server.backend import commit
from zeo_clone.server.backend.backend import Backend
from zeo_clone.server.backend.commit import StorageCommit
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.commits.lock import CommitLock, CommitQueue, Watchdog
from zeo_clone.server.commits.outcomes import NOT_COMMITTED, Outcomes
from zeo_clone.server.commits.transactor import Transactor
from zeo_clone.server.commits.unsynced import Unsynced
from zeo_clone.zrpc.channel.server import NoNews, ServerChannel
from zeo_clone.zrpc.frames import frame
from zeo_clone.zrpc.messages import encode_oneway


@plant('A client that has gone keeps the commit lock (C16).')
def lock_not_released() -> list[Patch]:
    return [(Transactor, 'close', lambda self: None)]


@plant('A waiting client that vanishes stays in the queue and gets the lock (L2).')
def vanished_in_queue() -> list[Patch]:
    def leave(self: Any, member: Any) -> Any:
        return whole(self, member) if member in self._holders else None

    def grant(self: Any, transactor: Any) -> None:
        if self._queue.holds(transactor) and transactor.client.connected:
            self._locked(transactor)
            transactor.phase.granted()
    whole = CommitQueue.leave
    return [(CommitQueue, 'leave', leave), (CommitLock, '_grant', grant)]


@plant('The next in the queue is not told that it has the lock.')
def grant_forgotten() -> list[Patch]:
    return [(CommitLock, '_grant', lambda self, transactor: None)]


@plant('Whoever holds the commit lock may hold it for ever (L10).', longest_vote_s=40.0,
       transaction_timeout_s=2.0, operations=('abandon', 'transfer', 'look'))
def watchdog_sleeps() -> list[Patch]:
    return [(Watchdog, '_ring', lambda self: None)]


@plant('The history answers for transactions that it does not remember.')
def history_gap() -> list[Patch]:
    return [(History, 'knows', lambda self, tid: True)]


@plant('The history leaves out the oldest transaction that a client asks for.')
def history_one_short() -> list[Patch]:
    def written_after(self: Any, tid: bytes) -> Any:
        later = [oids for entry, oids in self._entries if entry > tid]
        yield from reversed(later[1:])
    return [(History, '_written_after', written_after)]


@plant('The committer is told of its own transaction, too.')
def committer_told_twice() -> list[Patch]:
    tell, group = Audience.tell_all, Audience.publish_group

    def publish_group(self: Any, told: Any) -> None:
        group(self, [one._replace(committer=None) for one in told])
    return [(Audience, 'tell_all', lambda self, name, args, besides=None: tell(self, name, args)),
            (Audience, 'publish_group', publish_group)]


@plant('One client of many is not told of a transaction.')
def one_not_told() -> list[Patch]:
    announce = Audience._announce

    def not_to_last(self: Any, message: bytes, knowing: list[Any]) -> None:
        last = self.present()[-1:] if len(self) > 1 and b'invalidateTransaction' in message else []
        announce(self, message, [*knowing, *(one for one in last if one not in knowing)])
    return [(Audience, '_announce', not_to_last)]


@plant('An answer overtakes the news that wait for its client.', clients=4, think_s=0.0, server_sync=True)
def answer_before_news() -> list[Patch]:
    def send(self: Any, data: bytes) -> None:
        news, self._news = self._news, NoNews()
        place, self._place = self._place, 0
        try:
            whole(self, data)
        finally:
            self._news, self._place = news, place
    whole = ServerChannel.send
    return [(ServerChannel, 'send', send)]


@plant('One of the objects of a transaction is missing in invalidations (C3).')
def object_not_told() -> list[Patch]:
    publish, group = Audience.publish, Audience.publish_group

    def fewer(oids: list[bytes]) -> list[bytes]:
        return oids[:-1] if len(oids) > 1 else oids

    def publish_group(self: Any, told: Any) -> None:
        group(self, [one._replace(oids=fewer(one.oids)) for one in told])
    return [(Audience, 'publish', lambda self, tid, oids, by: publish(self, tid, fewer(oids), by)),
            (Audience, 'publish_group', publish_group)]


@plant('What an undo wrote is not told (C3).', storage='file', packs=False,
       operations=('undo', 'transfer', 'transfer', 'audit', 'register', 'look'))
def undo_not_told() -> list[Patch]:
    undo = StorageCommit._undo

    def without(self: Any, operation: Any) -> None:
        before = dict(self.written)
        undo(self, operation)
        self.written = before

    def vote(self: Any) -> None:
        before = dict(self.written)
        whole(self)
        self.written = before
    whole = StorageCommit.vote
    return [(StorageCommit, '_undo', without), (StorageCommit, 'vote', vote),
            (commit, 'VERBS', {**commit.VERBS, 'undo': without})]


@plant('Of several transactions that are told together the committer of one hears only what was before it.',
       storage='file', clients=4, threads=2, think_s=0.0, sync_s=(0.02, 0.03), latency_s=(0.0001, 0.002),
       faults={'reset': 20.0}, operations=('append', 'register', 'transfer', 'look'))
def rest_of_group_not_told() -> list[Patch]:
    def publish_group(self: Any, told: Any) -> None:
        for one in told:
            self.history.add(one.tid, one.oids)
        messages = [frame(encode_oneway('invalidateTransaction', (one.tid, one.oids))) for one in told]
        places = {one.committer: place for place, one in enumerate(told) if one.committer in self.present()}
        self._announce(b''.join(messages), list(places))
        for committer, place in places.items():
            committer.send(b''.join(messages[:place]))
        for one in told:
            one.tell_committer()
    return [(Audience, 'publish_group', publish_group)]


@plant('A transaction that is not on the disk yet can be read (D2).')
def shown_before_durable() -> list[Patch]:
    return [(Backend, 'hide', lambda self, tid: None)]


@plant('A transaction is told as durable when the sync for it begins (D2).')
def told_before_synced() -> list[Patch]:
    def add(self: Any, finished: Any) -> None:
        self.latest = finished.tid
        self._tell([finished])
        self._syncs.request()
    return [(Unsynced, 'add', add)]


@plant('After a sync that has failed the server goes on as if nothing had happened (D3).',
       storage='file', faults={'sync_error': 0.5, 'power_server': 2.0})
def failed_sync_forgotten() -> list[Patch]:
    def sync(self: Any, file: object, fd: int) -> None:
        try:
            self._runtime.fsync(fd)
        except OSError:
            pass
    return [(GroupCommitStorage, '_sync_file', sync)]


@plant('A conflict that the server should resolve is stored as its client sent it.', counters=2,
       operations=('count', 'count', 'transfer'))
def conflict_not_resolved() -> list[Patch]:
    return [(Guard, 'resolve', lambda self, old, committed, new: new)]


@plant('What the server made of a conflict is not told to the client that committed it.', counters=2,
       resolved_by_clients=False, connections=0, operations=('count', 'count', 'transfer'))
def resolved_not_told() -> list[Patch]:
    return [(StorageCommit, 'changed', property(lambda self: list(self.undone)))]


@plant('A store wins over what was committed since its record was read.')
def conflict_overlooked() -> list[Patch]:
    store = StorageCommit._store

    def blind(self: Any, operation: Any) -> None:
        try:
            current = self._storage.getTid(operation.oid) if hasattr(self._storage, 'getTid') else \
                self._storage.loadBefore(operation.oid, b'\x7f' * 8)[1]
        except KeyError:
            current = operation.serial
        store(self, operation._replace(serial=current))
    return [(StorageCommit, '_store', blind), (commit, 'VERBS', {**commit.VERBS, 'store': blind})]


@plant('What a client relied on is not checked.')
def check_overlooked() -> list[Patch]:
    return [(commit, 'VERBS', {**commit.VERBS, 'check': lambda self, operation: None})]


@plant('Nothing is ever synced: a reply comes before the transaction is durable (D2).')
def reply_before_durable() -> list[Patch]:
    return [(GroupCommitStorage, '_sync_file', lambda self, file, fd: None)]


@plant('The server says of a commit that it is not known that it was not made (C11).')
def outcome_forgotten() -> list[Patch]:
    return [(Outcomes, 'note', lambda self, token, number, tid: None),
            (Outcomes, 'find', lambda self, token, number: (NOT_COMMITTED, None))]


@plant('A session that has ended still stands among those that are told (C16).')
def session_not_parted() -> list[Patch]:
    return [(Audience, 'part', lambda self, listener: None)]


@plant('An abort leaves the storage in the transaction.')
def abort_forgotten() -> list[Patch]:
    return [(StorageCommit, 'abort', lambda self: None)]


@plant('A client hears of a transaction before its server has made it the last one.')
def history_late() -> list[Patch]:
    add = History.add

    def publish(self: Any, tid: bytes, oids: list[bytes], committer: Any) -> None:
        self.tell_all('invalidateTransaction', (tid, oids), committer)
        self._loop.call_later(0.05, partial(add, self.history, tid, oids))

    def publish_group(self: Any, told: Any) -> None:
        for tid, oids, committer, tell_committer in told:
            publish(self, tid, oids, committer)
            tell_committer()
    return [(Audience, 'publish', publish), (Audience, 'publish_group', publish_group)]
