"""The usage ledger, prices and plan limits."""
