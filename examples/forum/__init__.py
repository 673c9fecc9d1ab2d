"""A discussion site: several processes show the same stories, and the database server has little to do.

It shows how a web site grows on one database.  Stories, comments and votes are persistent objects; each
worker process is a small web server with a client of the database, and whatever it has read once it shows
again from its own cache, until another worker changes it.

How to start it, in three terminals (the programs need ``pip install '.[examples]'``)::

    zeo-clone serve -a localhost:9100 -f Data.fs
    cd examples; python -m forum.run localhost:9100 --workers 4
    cd examples; python -m forum.load http://127.0.0.1:8081

What to look at: open http://127.0.0.1:8081 and http://127.0.0.1:8082 in a browser, write in the one and
read in the other.  ``/stats`` shows how often each worker asked the server.  Then stop the server and reload
a page that you have seen: it is still there.

The files, in reading order: `model` (what is stored), `pages` (what is shown), `worker` (one process),
`run` (all of them), `stats` (how they do), `load` (many readers).
"""
