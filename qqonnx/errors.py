"""The one error that qqonnx raises on purpose, and how text out of a file is shown."""


class QqonnxError(Exception):
    """A problem that the user can act on.

    Its text is a single line that names what is wrong and where (file, tensor, option).
    The command line prints that line on stderr and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class OptionError(QqonnxError):
    """An option that does not fit; names the field of the library's option."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, or the error's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    r"""Return `text` with what is no visible character escaped.

    Names in a model may hold anything, line ends and terminal codes too.

    Example:
        >>> printable("two\nlines")
        'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
