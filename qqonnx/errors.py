"""The errors that qqonnx raises on purpose, and how text from a file is shown."""


class QqonnxError(Exception):
    """A problem that the user can act on.

    The text is a single line that names what is wrong and where (file, tensor, option). The
    command line prints that line on stderr and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class OptionError(QqonnxError):
    """An option that does not fit.

    Attributes:
        field: name of the option in the Python API, such as "bits" or "target.size". The command
            line shows the flag instead.
        problem: what is wrong with the option.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = printable(problem)

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        # Workers of a sweep send errors back; the default would call the class with one argument.
        return type(self), (self.field, self.problem)


class NothingToCompressError(QqonnxError):
    """A model is complete, but holds no weight that could be made smaller."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the error's name if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    r"""Return `text` with invisible characters escaped.

    Names in a model may hold anything, line ends and terminal codes too.

    Example:
        >>> printable("two\nlines")
        'two\\nlines'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
