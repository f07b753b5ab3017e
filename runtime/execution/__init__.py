"""Plans carried out: tasks, what a run keeps, what it tells."""
