"""A folder that the agent puts in front of PYTHONPATH of its training processes; see `sitecustomize` in it."""
