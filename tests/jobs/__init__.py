"""Tests of the life of a Job."""
