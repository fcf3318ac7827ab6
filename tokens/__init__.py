"""Scoped API tokens."""
