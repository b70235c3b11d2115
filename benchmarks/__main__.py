"""Ask the questions: `python -m benchmarks [NAME ...] [--write]`."""

from benchmarks.run import main

main()
