"""Tests of what every app stands on."""
