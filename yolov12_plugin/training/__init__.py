"""Presets of training arguments, and the guard of a training."""
