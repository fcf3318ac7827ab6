"""Engines and runners that own the weights (no Django)."""
