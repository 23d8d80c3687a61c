"""How long the migration takes and what the application notices of it, beside the guide's SQL run by other tools.

`make bench`, or `PYTHONPATH=tests python -m benchmarks --help`. Everything is measured on one PostgreSQL, one after the
other, while two processes write and one reads.
"""
