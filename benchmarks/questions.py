"""All questions, gathered."""

from benchmarks import chunks, committing, listing, opening, references

__all__ = ["chunks", "committing", "listing", "opening", "references"]
