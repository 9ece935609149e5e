"""Asking, or doing, something where a job's checkpoints are: by a short-lived pod beside the volume, or in a folder here."""
