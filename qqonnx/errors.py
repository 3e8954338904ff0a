"""The one error that qqonnx raises on purpose."""


class QqonnxError(Exception):
    """A problem that the user can act on.

    Its text is a single line that names what is wrong and where (file, tensor, option).
    The command line prints that line on stderr and exits with code 2.
    """


def first_line(error: Exception) -> str:
    """Return the first line of what a library's error says, or the error's name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
