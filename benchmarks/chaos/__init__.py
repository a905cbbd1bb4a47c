"""A chaos soak: inject seeded faults into a real fleet and count the effects."""
