"""Tenants: users, organizations, memberships and plans."""
