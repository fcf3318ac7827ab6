"""Tests of Organizations, their Owners and idempotency keys."""
