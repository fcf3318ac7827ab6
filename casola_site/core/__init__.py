"""What every app may use: errors, ids, scopes, parsing, Redis."""
