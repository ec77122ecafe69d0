"""The errors a user sees. Every message says what was given, what is allowed and what to do."""


class BitfrontError(Exception):
    """Something failed while it ran (exit code 1)."""


class InputError(BitfrontError, ValueError):
    """The user gave something that is not allowed (exit code 2)."""
