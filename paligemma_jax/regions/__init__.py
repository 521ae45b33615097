"""Boxes and masks as text: `<loc…>` and `<seg…>` tokens, run lengths, the mask codec. No JAX."""
