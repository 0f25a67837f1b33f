"""Runs in experiment trackers: TensorBoard, MLflow, Weights & Biases, or one of your own."""
