"""What a person types: the commands of ``zeo-clone``, each a module with ``main(args, prog)``.

Floor 5.  `main` finds the command; `serve`, with `startup` and `process`, is the server; `status` (with
`statustable`), `nagios` and `pack` (with `packing`) ask one, by `health`; `ctl` runs one in the background;
`cache_stats` and `cache_simulate`, with `plot`, read traces of caches.  `options` and `tlsoptions` are what
command lines have in common.  The classic names, ``zeo_clone.runzeo`` for one, are faces in the package.
"""
