"""The worker: it claims, delivers, settles, and waits while the database is away."""
