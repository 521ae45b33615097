"""Benchmarks against others: python -m tools.bench.NAME --against BASELINE --json.

You install a baseline (`pip install -r requirements/bench.txt`, here or in an environment of its
own that --baseline_python names). Each side runs in its own process; the two take turns, so that
what else the machine does hits both; medians are compared. To add one: a page like decode.py.
"""
