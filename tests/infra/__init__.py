"""Tests of the test servers and of the launcher."""
