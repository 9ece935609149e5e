"""Manifests, pure: a job and its status in, Kubernetes objects out."""
