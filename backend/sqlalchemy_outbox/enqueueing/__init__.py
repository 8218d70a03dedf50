"""Events are buffered with the caller's transaction and written just before its COMMIT, in the order of their ids."""
