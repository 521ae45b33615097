"""Text from a model: one compiled program per prompt shape, on the device."""
