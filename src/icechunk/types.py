"""Types for annotations."""

from typing import Literal, TypeAlias

__all__ = ["CommitMethod"]

CommitMethod: TypeAlias = Literal["new_commit", "amend"]
"""Whether an operation adds a snapshot to the branch, or replaces the one at its tip."""
