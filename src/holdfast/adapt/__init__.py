"""One's own model and data: open, train with protection, choose, audit, write back."""
