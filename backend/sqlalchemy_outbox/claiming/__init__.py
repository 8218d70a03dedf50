"""Which events a worker takes next, and the statement that takes them."""
