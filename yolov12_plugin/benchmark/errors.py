"""What keeps a model from being measured."""


class NotRunnable(RuntimeError):
    """A runtime, or a file for it, does not run here; the message is one line with the reason and what to do."""
