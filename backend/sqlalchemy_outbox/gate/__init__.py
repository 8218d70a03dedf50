"""What holds deliveries back for every process: the rate, a throttle, an outage, a hold."""
