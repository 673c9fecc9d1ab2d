"""Figures behind the claims of speed: each module prints what it measures, next to real ZEO."""
