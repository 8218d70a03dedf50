"""How a claim ends: outcomes become states, leases end, requests are recorded, what waits is set apart."""
