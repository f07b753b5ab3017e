"""Models on disk: checkpoints written and read, the lock, publication in one rename."""
