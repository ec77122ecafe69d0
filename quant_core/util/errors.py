"""The errors a user sees. Every message says what was given, what is allowed and what to do."""


class BitfrontError(Exception):
    """Something failed while it ran (exit code 1)."""


class BitfrontWarning(UserWarning):
    """Something that the user should know, in one sentence; the command line shows it as one line."""


class LeftInFloatWarning(BitfrontWarning):
    """Something of the network is left in float; the message names it."""


class InputError(BitfrontError, ValueError):
    """The user gave something that is not allowed (exit code 2)."""
