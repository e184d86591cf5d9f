"""Benchmarks: each measures mbflow and its peers in one run and reports ratios."""
