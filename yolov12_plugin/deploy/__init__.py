"""Exported files: the runtimes that compute them, whether they compute the model, and servers for them."""
