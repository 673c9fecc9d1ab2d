"""What runs in the client processes of the benchmarks, in the environment of each side; see ``main.py``."""
