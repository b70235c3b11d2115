"""Measuring this package against the Rust one: `python benchmarks/run.py`. One question per file in `questions/`."""
