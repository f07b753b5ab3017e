"""The host without torch: where it is, its config, its tensor headers, its content identity."""
