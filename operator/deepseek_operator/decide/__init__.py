"""Policy, pure: an Observation in, a Plan out."""
