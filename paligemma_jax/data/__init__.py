"""From rows to batches: tokens, order, loader. No JAX."""
