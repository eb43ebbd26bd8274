"""Latency, measured and recorded."""
