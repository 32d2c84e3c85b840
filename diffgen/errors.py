"""The one exception that means: the request was wrong, and this line says how to mend it."""


class UsageError(ValueError):
    """A request that cannot be met as it stands; its text is one line with the remedy.

    The command prints it on stderr and exits with status 2.
    """
