"""Training: stored features, heads, fine-tuning."""
