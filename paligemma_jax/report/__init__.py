"""What people look at after a run: the report and the gallery, as HTML files. No JAX."""
