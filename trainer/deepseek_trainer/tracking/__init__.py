"""What a run writes down for those who compare runs: series of figures as JSONL, for TensorBoard, W&B and MLflow.

Rules: rank 0 alone writes, in a thread of its own, so that no step waits for a disk or a server; nothing that fails here
fails training; a start that goes on from a step goes on with the series from there, so that no step is in it twice.
"""
