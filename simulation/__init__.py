"""The whole system under a seeded clock: ``python -m simulation``.

Server, clients, their threads, the network between them and the disks under them run in one thread of one
process, in virtual time.  Whatever happens follows from a seed, so what a seed has found it finds again.
docs/simulation.md says what is simulated, what is looked for, and what is not covered.

In reading order:

    dice         the only source of chance
    kernel       virtual clock, tasks in the place of threads, the trace; sync: locks of every kind
    network      machines' connections, streams, sockets; polling: epoll and its kin
    disk         files and names, and what a loss of power leaves of them
    machine      machines and processes; runtime: what a process gets in the place of the real world
    bound        ZODB's clock, locks and files, replaced from outside while a run lasts
    lines        switches of threads at any statement
    plan         what a run is like, drawn from its seed
    records, program, service      what is stored, who stores it, and the server
    faults       what goes wrong
    book, oracles                  what was promised and seen; the verdict
    world, runs, __main__          a run, many runs, the command
    planted/     bugs that have to be found
"""
