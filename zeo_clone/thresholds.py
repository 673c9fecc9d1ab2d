"""From when on something is trouble: one set of limits for log, page, commands and alert rules.

Numbers with their units and reasons; the rules in ``docs/operations.md`` are held against them by a test.
"""
from __future__ import annotations

#: Others may wonder who keeps them waiting when the commit lock is held for so many seconds.
HELD_S = 5.0
#: So many transactions wait for the commit lock: more is asked of the storage than it can do.
WAITING = 4
#: Output waits for a client and none of it has gone out for so many seconds: the client does not read.
STALLED_S = 5.0
#: A disk is filling up if less than this part of it is free, and fewer bytes: 5 % of 4 TB are enough.
DISK_LOW, DISK_LOW_BYTES = 0.05, 5_000_000_000
#: Likewise when it is about to be full: a commit, a pack or a blob may fail now.
DISK_FULL, DISK_FULL_BYTES = 0.01, 250_000_000
#: A pack that takes longer than so many seconds may be stuck.
PACK_S = 3600.0
#: Of what may wait for all clients together, or of the connections that may be, this part is used.
USED = 0.8
#: What went wrong within the last so many seconds is trouble of now.
RECENT_S = 600.0
#: A certificate is to be renewed so many seconds before it ends: two weeks.
EXPIRES_S = 14 * 86400.0
