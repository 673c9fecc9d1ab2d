"""A database with other servers in front of it: RelStorage on PostgreSQL (X1 to X3).

    clients -> reader -> records (the server's cache), else flights -> line -> the database
    commits -> committers, one transaction at a time -> a thread -> the database, with its outcome
    the database -> feed -> records, flights, audience, and the committer's reply: all in the order of tids

The database is the one source of order: nothing that it has committed is told before the feed has seen it.
`kinds` says which RelStorages can be served; else only `relstorage`, and `alone` on SQLite, know a driver,
SQL, and names of RelStorage.
"""
