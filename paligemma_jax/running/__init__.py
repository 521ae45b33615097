"""A run around the training step: its folder, its numbers, its evaluations, its reports."""
