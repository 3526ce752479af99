"""One exception for everything that a user can put right.

It is shown without a traceback when a script runs from the shell.
"""


class BadInput(ValueError):
    """A constant, file or checkpoint that cannot be used. The message says what is wrong and what to do."""
