"""One module of factories per app: least valid data, no hidden side effects."""
