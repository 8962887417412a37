"""Errors that a user can act on: each message is one line that says which file, what is wrong and what to do."""


class BrainAgeError(Exception):
    """Base of all expected errors; shown as one line, with a traceback under ``-v`` only."""


class UsageError(BrainAgeError):
    """The command or the dataset as a whole cannot be used (exit code 2)."""


class ScanError(BrainAgeError):
    """One scan cannot be processed; the other scans go on (exit code 1)."""


class BundleError(BrainAgeError):
    """A model bundle is missing, damaged, or does not fit what it is asked for."""
