"""Presets that transfers compose, and runs that are no benchmark."""
