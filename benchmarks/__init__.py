"""Measurements of speed: they print and keep figures and never gate a test."""
