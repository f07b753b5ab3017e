"""What host and result cost: parameters, FLOPs, memory, time."""
