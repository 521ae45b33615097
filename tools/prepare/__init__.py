"""Builders of datasets: one module for each benchmark, which reads the download as its site ships it."""
