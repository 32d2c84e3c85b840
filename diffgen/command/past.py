"""A way past Hydra for errors."""


class Past(BaseException):
    """Carries its cause out of Hydra, which makes a warning of an Exception in a callback and
    announces one of a single job in words of its own."""
