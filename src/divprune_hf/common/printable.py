"""Foreign text, such as names of files and words of a server, made harmless for a terminal."""


def printable(text: object) -> str:
    """Escape every character that is not plainly visible: control characters, escape sequences, bidi controls.

    The result is one line. Letters of any script stay as they are.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode() for char in str(text)
    )


def one_line(text: object) -> str:
    """A message that may have several lines as one, fit for a terminal."""
    return printable(" ".join(str(text).split()))


def error_line(error: BaseException) -> str:
    """Return the type and message of an error on one line, fit for a terminal."""
    return one_line(f"{type(error).__name__}: {error}")
