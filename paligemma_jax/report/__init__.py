"""The report and the gallery of a run, as HTML files. No JAX."""
