"""A large job: 50 GiB of virtual references and 4 GiB of chunks, written by a cluster whose workers may die."""
