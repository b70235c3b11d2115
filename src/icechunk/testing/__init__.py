"""For tests of what uses Icechunk, and of Icechunk itself.

- `LatencyStorage` is as slow as an object store.
- `models`, `invariants`, `trees`, `strategies` and `utils` compare a repository with a model under generated operations
  (they need hypothesis).
- `storage_suite` holds every storage backend to the same tests; `counting`, `faults` and `schedules` watch storage calls,
  make them fail, and run them in every order.
"""

from __future__ import annotations

from icechunk.testing.latency import LatencyStorage

__all__ = ["LatencyStorage"]
