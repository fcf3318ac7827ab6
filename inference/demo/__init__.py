"""Scripts that make, train and evaluate the shipped demo models."""
