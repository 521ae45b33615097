"""What a run will need before it is started: memory, time, and whether it fits a device."""
