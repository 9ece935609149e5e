"""Checkpoints in an object store: the same promise as on a volume, without renames and without fsync."""
