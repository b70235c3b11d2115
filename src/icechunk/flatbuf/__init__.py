"""A small flatbuffers runtime in Python and numpy; it has never heard of Icechunk.

`schema` declares layouts as data, `reader` follows offsets one value at a time, `columns` gathers one field of a million
tables in one pass, `builder` writes.
"""
