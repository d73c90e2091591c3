"""Penalties: terms that pull weights back to where an earlier task left them."""
