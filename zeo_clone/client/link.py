"""A link: a server with which this client is registered, to the last packet.

It is born with its channel, as a candidate.  The one that the manager chooses verifies the cache and is ready
for calls from any thread.  Notices of the server are applied in the reader's role; those that come before the
cache is verified are kept.
"""
from __future__ import annotations

import contextlib
import enum
from collections import deque
from typing import Any, Protocol

from zeo_clone.client.attempt import CONNECT_TIMEOUT_S, Registered
from zeo_clone.client.downloads import NOTICES as BLOB_NOTICES
from zeo_clone.client.downloads import Downloads
from zeo_clone.client.effects import Effects
from zeo_clone.client.heartbeat import Heartbeat
from zeo_clone.client.notices import check_info, check_invalidation
from zeo_clone.client.options import Options
from zeo_clone.client.verification import Verification
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import Runtime
from zeo_clone.version import __version__
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.frames import DEFAULT_LIMIT, MAX_FRAME
from zeo_clone.zrpc.messages import NOTICE, Change
from zeo_clone.zrpc.offers import COMMIT_OUTCOME, HEARTBEAT, RICH_VALUES

#: A server that does not answer the verification of the cache is given up after this time, in seconds.
VERIFY_TIMEOUT_S = 120.0
#: Notices kept while the cache is verified, and oids in them; more, and the link is dropped and tried anew.
MAX_KEPT = 100_000
MAX_KEPT_OIDS = 1_000_000


class LinkState(enum.Enum):
    """How far a link has come."""

    CANDIDATE = enum.auto()
    VERIFYING = enum.auto()
    READY = enum.auto()
    LOST = enum.auto()


_S = LinkState
#: Where one may go from a state; everything else is an illegal move.
TABLE = {
    _S.CANDIDATE: {_S.VERIFYING, _S.LOST},
    _S.VERIFYING: {_S.READY, _S.LOST},
    _S.READY: {_S.LOST},
    _S.LOST: set(),
}


class Identity:
    """Who this storage is to a server, over several connections, and the numbers of its transactions (C11).

    A token from the system's source of secrets, so that nobody can pretend to be another client.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.token = runtime.randbytes(16)
        self.number = 0  # of the last transaction; changed under the commit lock of `Committing`

    def next_number(self) -> int:
        """The number of a new transaction."""
        self.number += 1
        return self.number


class LinkOwner(Protocol):
    """What a link tells its manager.  In the loop's thread or the reader's role."""

    def link_ready(self, link: Link) -> None:
        """The cache is verified; calls may be made."""

    def link_info(self, link: Link, info: dict[str, Any]) -> None:
        """The server sent new facts about the storage."""

    def link_lost(self, link: Link, error: Exception) -> None:
        """It has gone, and will never come back."""


class Link:
    """One server's connection.  Made in the reader's role, at the moment of the answer to ``register``."""

    def __init__(self, loop: Loop, registered: Registered, options: Options, effects: Effects,
                 identity: Identity, owner: LinkOwner) -> None:
        self.channel = registered.channel
        self.target = registered.target
        self.read_only = registered.read_only
        self.state = LinkState.CANDIDATE
        self.info: dict[str, Any] = {}
        self._server_tid = registered.tid
        self._loop = loop
        self._options = options
        self._effects = effects
        self._identity = identity
        self._owner = owner
        self.downloads = Downloads()
        self.forgotten: deque[int] = deque()  # iterators that the server may forget, too
        self._kept = registered.early  # invalidations until the cache is verified
        self._kept_oids = sum(len(oids) for _, oids in self._kept)
        self._heartbeat: Heartbeat | None = None
        self._deadline = loop.call_later(CONNECT_TIMEOUT_S, self._too_slow)  # as a candidate
        self.channel.entrust(self)

    def __repr__(self) -> str:
        return f'<Link {self.target} {self.state.name}>'

    def _move(self, state: LinkState) -> None:
        if state not in TABLE[self.state]:
            raise ProtocolError(f'{self!r} cannot become {state.name}')
        self.state = state

    # ---- loop thread: the chosen one ------------------------------------------------------------

    def verify(self) -> None:
        """Bring the cache up to this server's state, then be ready."""
        try:
            self._verify()
        except Exception as error:  # of the cache or the DB (C17); or it is lost already
            self.fail(error)

    def _verify(self) -> None:
        self._move(LinkState.VERIFYING)
        self._effects.reassure()
        self._deadline.cancel()
        self._deadline = self._loop.call_later(VERIFY_TIMEOUT_S, self._too_slow)
        self.channel.call_async('get_info', (), self._informed)

    def _informed(self, call: PendingCall) -> None:
        """Reader's role: it is known which database this is, and what can be asked."""
        if call.error is not None:
            self.fail(call.error)
            return
        self.info = check_info(call.value)
        Verification(self.channel, self._effects, self._server_tid, self.info,
                     self._options.drop_newer_cache, self._verified, self.fail).start()

    def _verified(self) -> None:
        """Reader's role: what came meanwhile is applied now; the effects drop what is not new (C4)."""
        kept, self._kept, self._kept_oids = self._kept, [], 0
        for tid, oids in kept:
            self._effects.invalidate(tid, oids)
        self.channel.core.verified(self._frame_limit())
        if self._options.client_label is not None:
            self.channel.send_async(
                self.channel.core.send_oneway('set_client_label', (self._options.client_label,)))
        if self.offers(RICH_VALUES):
            self.channel.send_async(self.channel.core.send_oneway(RICH_VALUES, ()))
        if self.offers(COMMIT_OUTCOME):
            self.channel.call_async('identify', (self._identity.token, self._identity.number),
                                    self._identified)
        self._deadline.cancel()
        self._move(LinkState.READY)
        if self._options.heartbeat_s is not None:
            announce = self._options.io_thread and self.offers(HEARTBEAT)
            self._heartbeat = Heartbeat(self._loop, self.channel, self._options.heartbeat_s, announce,
                                        self.fail, self._told if self.offers('told') else None)
            self._loop.door(self._heartbeat.start)
        self._owner.link_ready(self)

    def _told(self) -> dict[str, object]:
        """What the operator of the server may want to know of this client."""
        stats = self._effects.cache.stats()
        return {'version': __version__, 'hits': stats.get('hits', 0), 'misses': stats.get('misses', 0)}

    def _identified(self, call: PendingCall) -> None:
        if call.error is not None:
            self.fail(call.error)

    def _frame_limit(self) -> int:
        """How large a message the server takes (N19).  ZEO takes all; older servers of ours do not say it."""
        unsaid = DEFAULT_LIMIT if 'extensions' in self.info else MAX_FRAME
        return self.info.get('frame_limit', unsaid)  # type: ignore[no-any-return]

    def offers(self, extension: str) -> bool:
        """Does the server have this method, which is not one of ZEO's?"""
        return extension in self.info.get('extensions', ())

    # ---- reader's role --------------------------------------------------------------------------

    def handle_agreed(self, protocol: str) -> None:
        """Called by the channel: that was before."""

    def handle_notice(self, name: str, args: tuple[Any, ...]) -> None:
        """Called by the channel: the server calls one of a client's methods."""
        if name == 'invalidateTransaction':
            tid, oids = check_invalidation(args)
            if self.state is LinkState.READY:
                self._effects.invalidate(tid, oids)
            elif len(self._kept) < MAX_KEPT and self._kept_oids + len(oids) <= MAX_KEPT_OIDS:
                self._kept.append((tid, oids))
                self._kept_oids += len(oids)
            else:
                raise ProtocolError('too many invalidations while the cache is being verified')
        elif name in BLOB_NOTICES:
            self.downloads.handle_notice(name, args)
        elif name == 'info' and len(args) == 1:
            info = check_info(args[0])
            self.info.update(info)
            self._owner.link_info(self, info)
        else:
            raise ProtocolError(f'the server calls the unknown method {name!r}')

    def handle_changes(self, changes: list[Change]) -> None:
        """Called by the channel: the server tells of other clients' transactions."""
        if self.state is LinkState.READY:
            invalidate = self._effects.invalidate
            *others, last = changes
            for tid, oids in others:
                invalidate(tid, oids, True)
            invalidate(*last)
        else:
            for change in changes:
                self.handle_notice(NOTICE.name, change)

    def handle_silence(self) -> None:
        """Called by the channel: the server says nothing."""
        if self._heartbeat is not None:
            self._heartbeat.beat()

    def handle_lost(self, error: Exception) -> None:
        """Called by the channel: the connection has gone."""
        self._lost(error)

    # ---- any thread -----------------------------------------------------------------------------

    def fail(self, error: BaseException) -> None:
        """Give the link up because of `error`."""
        self.channel.abort(error if isinstance(error, Exception) else ClientDisconnected(repr(error)))

    def forget_iterators(self) -> None:
        """Tell the server of iterators that nobody uses any more."""
        iids = [self.forgotten.popleft() for _ in range(len(self.forgotten))]
        if iids:
            with contextlib.suppress(ClientDisconnected):
                self.channel.send('iterator_gc', (iids,))

    def wait_until_gone(self, timeout_s: float) -> None:
        """After `fail`: wait until nothing of it touches the cache any more."""
        if not self.channel.is_applying():
            self.channel.buried.wait(timeout_s)

    def _lost(self, error: Exception) -> None:
        # Every step may be done again, if a signal's exception ends this.
        if self.state is not LinkState.LOST:
            self._deadline.cancel()
            if self._heartbeat is not None:
                self._loop.door(self._heartbeat.stop)
            self._owner.link_lost(self, error)
            self._move(LinkState.LOST)

    @property
    def doing(self) -> str:
        """What is waited for, in words for a complaint."""
        return f'connected, but still {self.state.name.lower()}'

    def _too_slow(self) -> None:
        self.fail(TimeoutError(f'the server is too slow: {self.doing}'))
