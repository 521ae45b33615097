"""Runs that are no benchmark: the tiny model, its pretraining, the mask codec."""
