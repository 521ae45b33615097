"""Weights in and out: the table of names, npz, safetensors, strict loading, export."""
