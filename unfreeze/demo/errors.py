"""The demo's exception."""


class DemoError(Exception):
    """The demo cannot go on; the message says why."""
