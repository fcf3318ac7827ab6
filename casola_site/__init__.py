"""Settings, routing and the shared core of Casola."""
