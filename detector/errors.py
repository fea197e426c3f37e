"""The one exception that means "the user can fix this": its message is printed without a traceback."""


class UserError(Exception):
    """A mistake in a file, a key or an argument.

    The message names the file, line or key, and the fix, in one or two lines.
    The command lines print it on stderr and exit with code 2.
    """
