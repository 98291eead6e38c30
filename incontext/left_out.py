"""What was given and could not be used, said while the rest goes on. Refuses to know what it was given for."""


class LeftOutWarning(UserWarning):
    """Something that was given was left out: an example, an image of a set, a class, an overlay.

    The command line ends with status 1 after it, and `--strict` makes an error of the first.
    """
