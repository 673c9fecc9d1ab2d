"""What is measured: one module per theme, each with functions from an `Arena` to figures by name.

A function runs in the parent's one thread and has client processes do the work.  None as a figure means that
there was nothing to see.  `benchmarks.catalog` says what the figures are called and what they should be.
"""
