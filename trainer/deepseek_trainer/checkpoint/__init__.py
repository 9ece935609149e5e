"""Atomic, checksummed checkpoints: layout, save, load, retention."""
