"""`dsj audit`: asks the proof of a job's audit, where its checkpoints are, and compares it with the job's status."""
