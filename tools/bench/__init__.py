"""Benchmarks against rivals, one command each: python -m tools.bench.NAME --against RIVAL --json.

A rival is installed by you (`pip install -r requirements/bench.txt`, here or in an environment of
its own that --rival_python names). Each side runs in its own process; the two take turns, so that
what else the machine does hits both; medians are compared. To add one: a page like decode.py.
"""
