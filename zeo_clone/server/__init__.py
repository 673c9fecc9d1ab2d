"""The server: sessions with clients on one side, storages on the other, one loop in one thread between.

`server` listens and owns everything else; `session` is one client, `methods` what it may call; `served`
is one storage with its commit queue, invalidation history and counters; `phases` and `commit` are the
way of a transaction into the storage.  Slow calls go through `workers` and come back as `Deferred`.
"""
