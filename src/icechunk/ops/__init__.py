"""Looking after a repository: expiration, collection, statistics, inspection, upgrading.

Each module decides in plain functions on values and acts in short coroutines, so that a dry run is the decision, printed.
The values that the operations of a repository return can be imported from here.
"""

from __future__ import annotations

from icechunk.info import GCSummary, Update, UpdateType

__all__ = ["GCSummary", "Update", "UpdateType"]
