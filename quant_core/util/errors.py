"""The errors a user sees. Every message says what was given, what is allowed and what to do."""


class BitfrontError(Exception):
    """Something failed while it ran (exit code 1)."""


class BitfrontWarning(UserWarning):
    """Something that the user should know, in one sentence; the command line shows it as one line."""


class LeftInFloatWarning(BitfrontWarning):
    """Something of the network is left in float; the message names it."""


class InputError(BitfrontError, ValueError):
    """The user gave something that is not allowed (exit code 2)."""


def first_line(error: Exception) -> str:
    """Return the type of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def first_line_of_foreign(error: Exception) -> str:
    """Return the first line of an error, with its type; the whole text of an error of ours."""
    return str(error) if isinstance(error, BitfrontError) else first_line(error)
