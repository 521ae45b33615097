"""Builders of datasets: one module for each benchmark, which reads its official download."""
