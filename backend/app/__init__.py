"""Nerava: the business whose lifecycle events reach HubSpot."""
