"""Kernels written by hand, in Triton. Imported where one is used, and only then: Triton isn't in every image."""
