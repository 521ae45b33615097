"""Text from a model: one compiled program per prompt shape, wholly on the device."""
