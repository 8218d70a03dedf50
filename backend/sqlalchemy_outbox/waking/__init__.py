"""A commit wakes the workers: in this process, and by NOTIFY in others."""
