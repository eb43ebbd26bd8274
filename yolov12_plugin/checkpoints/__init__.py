"""Checkpoints and weights: found, read without executing them, described, expressed in another layout, written."""
