"""Training: sharding, optimizers, loss, the step, and state that survives."""
