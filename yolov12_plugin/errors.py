"""What keeps a model from being measured."""


class NotRunnable(RuntimeError):
    """A runtime, or a file for it, does not run here; the message is one line with the reason and what to do."""


def first_line(e: Exception) -> str:
    """What an exception says first."""
    return next((line.strip() for line in str(e).splitlines() if line.strip()), "no reason given")
