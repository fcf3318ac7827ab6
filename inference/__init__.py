"""ML models, their runners and the inference APIs."""
