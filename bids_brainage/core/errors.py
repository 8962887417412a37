"""Errors that a user can act on: each message is one line that says which file, what is wrong and what to do."""


class BrainAgeError(Exception):
    """Base of all expected errors; shown as one line, with a traceback under ``-v`` only."""


class UsageError(BrainAgeError):
    """The command or the dataset as a whole cannot be used (exit code 2)."""


class ScanError(BrainAgeError):
    """One scan cannot be processed; the other scans go on (exit code 1)."""


class BundleError(BrainAgeError):
    """A model bundle is missing, damaged, or does not fit what it is asked for."""


def in_a_line(error: BaseException) -> str:
    """Any error as one line; where the system refused a file, with what to do."""
    if isinstance(error, BrainAgeError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename  # of a copy: its target
        return f"{error.strerror}{f' ({path})' if path else ''}; check space and permissions"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
