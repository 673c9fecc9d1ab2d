"""``python -m zeo_clone`` prints where to start.  No input; one thread; knows nothing else of ours."""
from __future__ import annotations

WHERE_TO_START = """\
zeo_clone shares one ZODB database among many processes.

Start a server:     runzeo -a localhost:9100 -f Data.fs
                    (or: python -m zeo_clone.runzeo; all options: runzeo --help)
Open a connection:  python
                    >>> import transaction, zeo_clone
                    >>> conn = zeo_clone.connection(('localhost', 9100))
                    >>> conn.root()['hello'] = 'world'
                    >>> transaction.commit()

Look after it:      zeo-status localhost:9100      what it does just now
                    zeopack localhost:9100         remove old revisions
                    zeo-nagios localhost:9100      for monitoring
                    zeoctl -C zeo.conf start       run it in the background
"""


def main() -> None:
    print(WHERE_TO_START, end='')


if __name__ == '__main__':
    main()
