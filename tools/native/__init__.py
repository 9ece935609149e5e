"""A real Kubernetes on one Linux machine, from pinned Go modules: no Docker, no image registry.

`controlplane` alone needs neither root nor network (tests/cluster); `cluster` adds nodes (tests/e2e).
"""
