"""What can stop the demonstration."""


class DemoError(Exception):
    """It cannot go on; says why."""
