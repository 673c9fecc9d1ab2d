"""The server: sessions with clients on one side, storages on the other, one loop in one thread between.

`server` listens and owns everything else.  It has four wings: `clients`, one session for each connection and
what may be called; `commits`, the way of a transaction into the storage; `audience`, who is told what has
happened; `backend`, all that is asked of a storage.  `served` joins them for one storage.  Slow calls go
through worker threads and come back as `Deferred`.
"""
