"""One process for each device that encodes for all workers of this machine, and their way to it."""
