"""Holdfast: learn something new without losing what was known."""
