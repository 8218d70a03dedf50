"""What is done now and then: leases that ran out are charged, wrong clocks corrected, old events purged."""
