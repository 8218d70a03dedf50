"""A subject that was forgotten leaves the tables here, and the worker refuses what is still stored of her."""
