"""Input and output of each Task, as plain dataclasses (no Django)."""
