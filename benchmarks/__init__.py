"""Figures behind the claims of speed: how we do beside real ZEO, RelStorage and a bare FileStorage.

In reading order: ``__main__`` is the command; `catalog` says what is measured and what is aimed at, and
`workloads` how.  `runner` has all `sides` take turns, each in an `arena` of server and clients; what runs in
those clients is in `child`.  `table`, `plot` and `growth` make something of the figures.  `load` is a short
form; `cache` and `memory` are measurements of their own; `trips` counts calls and files instead of seconds.

From the tests only ``tests.support`` is used: it starts processes, and makes environments for peers.
"""
