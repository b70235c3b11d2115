"""What there is to know about snapshots: their descriptions, differences and history."""

from icechunk.ancestry_graph import AncestryGraph
from icechunk.info import Diff, ManifestFileInfo, SnapshotInfo

__all__ = ["AncestryGraph", "Diff", "ManifestFileInfo", "SnapshotInfo"]
