"""Experiment trackers: TensorBoard, MLflow and W&B. `table` lists them."""
