"""From validated events to what models read: a vocabulary, sequences of steps, items and users."""
