"""Faults between the real client and the REST layer, and what must hold after each of them."""
