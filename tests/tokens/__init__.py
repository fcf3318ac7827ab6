"""Tests of secrets, scopes and who they speak for."""
