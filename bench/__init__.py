"""Benchmarks, sweeps and the demo; run from the repository's root as `python -m bench.NAME`. Not in the package."""
