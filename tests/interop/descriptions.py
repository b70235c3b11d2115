"""Comparing what two engines see of a repository."""

from __future__ import annotations

from typing import Any


def differences(left: Any, right: Any, where: str = "") -> list[str]:
    """Each place where two nested descriptions differ, as a line to read."""
    if isinstance(left, dict) and isinstance(right, dict):
        found = []
        for key in sorted({*left, *right}, key=str):
            if key not in left or key not in right:
                side = "left" if key in left else "right"
                found.append(f"{where}/{key}: only on the {side}: {str(left.get(key, right.get(key)))[:200]}")
            else:
                found += differences(left[key], right[key], f"{where}/{key}")
        return found
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        return [
            line
            for i, (a, b) in enumerate(zip(left, right, strict=True))
            for line in differences(a, b, f"{where}[{i}]")
        ]
    return [] if left == right and type(left) is type(right) else [f"{where}: {str(left)[:200]} != {str(right)[:200]}"]


def anonymous(description: Any) -> Any:
    """A description without what may differ between two runs of one program.

    Snapshots are called by depth and message instead of their ids; times, the marks that an implementation leaves in a
    commit's properties, and the settings it fills in for the storage at hand are left out.
    """
    names: dict[str, str] = {}
    for history in description["histories"].values():
        for depth, info in enumerate(reversed(history)):
            names[info["id"]] = f"{depth}:{info['message'][:20]}"
    dropped = ("written_at", "__icechunk", "__root", "storage", "splitting_config")

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {rename(key): rename(item) for key, item in value.items() if key not in dropped}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return names.get(value, value) if isinstance(value, str) else value

    renamed = rename(description)
    renamed["config"] = renamed["config"] or {}
    return renamed


def but_for_sizes(description: Any) -> Any:
    """A description without the bytes that chunks take: of those that share an object the Rust versions count one."""
    return {key: value for key, value in description.items() if key != "bytes"}
