"""Bugs of clients: order of effects, verification, outcomes, links."""
from __future__ import annotations

from typing import Any

from ZODB.utils import z64

from simulation.planted import Patch, plant
from zeo_clone.client.commit import Begun, Voted
from zeo_clone.client.effects import Effects
from zeo_clone.client.iothread import IOThread
from zeo_clone.client.link import Link, LinkState
from zeo_clone.client.loading import Loader
from zeo_clone.client.manager import Manager
from zeo_clone.client.notices import check_invalidation, check_revision
from zeo_clone.client.outcome import NOT_COMMITTED, Inquiry
from zeo_clone.client.verification import Verification
from zeo_clone.Exceptions import ClientDisconnected


@plant('A load reply enters the cache when the caller wakes, not when it is processed (C1).')
def reply_stored_late() -> list[Patch]:
    def load(self: Any, oid: bytes, tid: bytes) -> Any:
        revision = self.read(lambda channel, link: channel.load(oid, tid, check_revision))
        if revision is not None:
            data, start, end = revision
            self.cache.store(oid, start, end, data)
        return revision
    return [(Loader, 'load', load)]


@plant('The last transaction moves on before the database is told (C2).')
def last_tid_before_invalidation() -> list[Patch]:
    def invalidate(self: Any, tid: bytes, oids: list[bytes], more: bool = False) -> None:
        if tid > self.last_tid:
            with self._barrier:
                self.last_tid = tid
                self.cache.invalidateTransaction(tid, oids)
                if self.db is not None:
                    self.db.invalidate(tid, oids)
                self.cache.setLastTid(tid)
    return [(Effects, 'invalidate', invalidate)]


@plant('The last transaction moves on before the callback of tpc_finish has told the other connections (C2).')
def last_tid_before_callback() -> list[Patch]:
    finish = Effects.finish

    def early(self: Any, tid: bytes, records: Any, callback: Any) -> None:
        self.last_tid = tid
        self._runtime.give_way()
        finish(self, tid, records, callback)
    return [(Effects, 'finish', early)]


@plant('What is told while the cache is verified takes effect at once (C4).')
def notices_not_kept() -> list[Patch]:
    handle = Link.handle_notice

    def handle_notice(self: Any, name: str, args: Any) -> None:
        if name == 'invalidateTransaction':
            self._effects.invalidate(*check_invalidation(args))
        else:
            handle(self, name, args)
    return [(Link, 'handle_notice', handle_notice)]


@plant('What is told while the cache is verified is forgotten (C4).')
def notices_forgotten() -> list[Patch]:
    verified = Link._verified

    def without(self: Any) -> None:
        self._kept = []
        verified(self)
    return [(Link, '_verified', without)]


@plant('What is told between registration and verification takes effect twice.')
def late_news_twice() -> list[Patch]:
    def invalidate(self: Any, tid: bytes, oids: list[bytes], more: bool = False) -> None:
        with self._barrier:
            self.cache.invalidateTransaction(tid, oids)
            if self.db is not None:
                self.db.invalidate(tid, oids)
            self.cache.setLastTid(tid)
            self.last_tid = tid
    return [(Effects, 'invalidate', invalidate)]


@plant('After a reconnect the cache is taken for true as it is.')
def cache_not_verified() -> list[Patch]:
    def start(self: Any) -> None:
        self._effects.cache.setLastTid(self._server_tid)
        self._effects.last_tid = self._server_tid
        self._verified()
    return [(Verification, 'start', start)]


@plant('What changed while the client was away is told to the cache only, not to the database.')
def away_not_told() -> list[Patch]:
    def catch_up(self: Any, tid: bytes, oids: list[bytes]) -> None:
        with self._barrier:
            for oid in oids:
                self.cache.invalidate(oid, None)
            self.cache.setLastTid(tid)
            self.last_tid = tid
    return [(Effects, 'catch_up', catch_up)]


@plant('What changed while the client was away is told to the database only, not to the cache.')
def away_still_cached() -> list[Patch]:
    def catch_up(self: Any, tid: bytes, oids: list[bytes]) -> None:
        with self._barrier:
            if self.db is not None:
                self.db.invalidate(tid, oids)
            self.cache.setLastTid(tid)
            self.last_tid = tid
    return [(Effects, 'catch_up', catch_up)]


@plant('A cache that is too old is not emptied.')
def stale_cache_kept() -> list[Patch]:
    return [(Effects, '_empty_cache', lambda self: None)]


@plant('While a cache is emptied, lastTransaction is zeros for a moment (C23).', storage='file', clients=4,
       threads=3, think_s=0.0, history_size=1, persistent=True, faults={'kill_server': 2.0, 'reset': 0.5})
def last_tid_goes_back() -> list[Patch]:
    def start_over(self: Any, tid: bytes) -> None:
        with self._barrier:
            self.last_tid = z64
            self._empty_cache()
            self._runtime.event().wait(0.05)  # a large one takes its time
            self._tell_all_changed(tid)
            self.cache.setLastTid(tid)
    return [(Effects, 'start_over', start_over),
            (Effects, 'last_transaction', lambda self: self.last_tid)]


@plant('Without a reply to tpc_finish the client takes for granted that nothing was committed (C11).')
def outcome_not_asked() -> list[Patch]:
    def find_out(self: Any, lost: Exception) -> bytes:
        self._get_link(30.0)
        raise ClientDisconnected(f'nothing was committed ({lost})')
    return [(Inquiry, 'find_out', find_out)]


@plant('A server that was started anew, and knows nothing, is believed that nothing was committed (C11).')
def outcome_unknown_is_no() -> list[Patch]:
    return [(Inquiry, '_look', lambda self, link: (NOT_COMMITTED, None))]


@plant('Without a reply to tpc_finish the client takes for granted that it was committed (C11).')
def outcome_taken_for_yes() -> list[Patch]:
    def find_out(self: Any, lost: Exception) -> bytes:
        self._get_link(30.0)
        tid: bytes = self._doubtful.tid or b'\x7f' * 8
        return tid
    return [(Inquiry, 'find_out', find_out)]


@plant('A transaction that began on a link that is lost goes on at the next one (C6 of the design).')
def transaction_changes_links() -> list[Patch]:
    vote = Begun._ask_for_vote

    def ask(self: Any, cache: Any) -> Any:
        if self._channel.fate is not None:
            return [], [], None
        return vote(self, cache)

    def finish(self: Any, effects: Any, callback: Any, inquire: Any) -> bytes:
        if self._channel.fate is None:
            return self._finish(effects, callback, inquire)  # type: ignore[no-any-return]
        return self.tid or b'\x7f' * 8
    return [(Begun, '_ask_for_vote', ask), (Voted, 'finish', finish)]


@plant('What the client has committed itself stays in its cache as it was before.')
def own_commit_not_cached() -> list[Patch]:
    finish = Effects.finish
    return [(Effects, 'finish', lambda self, tid, records, callback: finish(self, tid, [], callback))]


@plant('When a link is lost the manager does not hear of it.')
def loss_not_told() -> list[Patch]:
    return [(Manager, 'link_lost', lambda self, link, error: None)]


@plant('After a lost link nobody looks for another one.')
def search_not_begun() -> list[Patch]:
    return [(Manager, '_gone', lambda self, link: self.places.gone(link))]


@plant('The heartbeat of a client is never sent, nor a silent server noticed.', )
def client_without_heart() -> list[Patch]:
    from simulation.runtime import SimRuntime
    from zeo_clone.client.heartbeat import Heartbeat
    from zeo_clone.server.clients.session import Session
    return [(Heartbeat, 'start', lambda self: None), (Heartbeat, 'beat', lambda self: None),
            (Session, 'beat', lambda self: None), (SimRuntime, 'tune', lambda self, sock: None)]


@plant('close() leaves the I/O thread running.')
def thread_left_behind() -> list[Patch]:
    return [(IOThread, 'give_back', lambda self, loop: None)]


@plant('A link becomes ready before its cache is verified.')
def ready_before_verified() -> list[Patch]:
    def informed(self: Any, call: Any) -> None:
        if call.error is not None:
            self.fail(call.error)
            return
        self.info = call.value
        if self.state is LinkState.VERIFYING:
            self._effects.last_tid = max(self._effects.last_tid, self._server_tid)
            self._verified()
    return [(Link, '_informed', informed)]
