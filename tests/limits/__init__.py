"""The rate limits measured from outside over real minutes."""
