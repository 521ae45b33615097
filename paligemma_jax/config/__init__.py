"""The configuration system: schema, files, command line, checks. No JAX."""
