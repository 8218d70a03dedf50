"""Nerava over HTTP: a route names who asks, the write, and what HubSpot hears of it, in one transaction."""
