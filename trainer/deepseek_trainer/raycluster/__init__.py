"""Ray beside a job: what its containers run, and how the trainer uses it. Nothing here is needed for a job to be right."""
