"""The client cache: a bounded file of object revisions that makes a client fast and survives restarts.

Floor 3: knows files, and neither network nor storage.  What flows in and out is in
`zeo_clone.interfaces.IClientCache`; where each part is told: `format` (bytes on disk and why a crash
cannot make them lie), `index` (oid to place), `file` (opening, locking, header), `ring` (which place
is given up next), `snapshot` and `recovery` (the index at a clean and an unclean start), `cache`
(what a revision means, and the threads), `trace` (what a cache was asked, for the commands
`cache-stats` and `cache-simulate`).
"""
from __future__ import annotations

from zeo_clone.cache.cache import ClientCache
from zeo_clone.cache.file import CacheLocked

__all__ = ['CacheLocked', 'ClientCache']
