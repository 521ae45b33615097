"""A run around the training step: its folder, its metrics, its evaluations, its end."""
