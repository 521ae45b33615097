"""Weights and training state on disk: every format in and out, and the manifest of a checkpoint."""
