"""What PostgreSQL and SQLite are to an outbox: drivers, poolers, transactions with a deadline, rows as JSON."""
