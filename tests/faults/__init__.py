"""What the pipeline survives: seeded faults of many kinds, and how many of them did harm."""
