"""What the system says when a file cannot be had, in words that a person reads. Pure."""


def in_words(error: OSError | UnicodeError) -> str:
    """Write `No such file or directory: /the/path`, without the number and Python's quotes."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join((error.strerror, " -> ".join(names))) if names else error.strerror
    return str(error)
