"""Tests of prices, the ledger and the rate limits."""
