"""One run, from its configuration to its record: may import `models`, `data` and `records`."""
