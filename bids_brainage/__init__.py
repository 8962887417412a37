"""bids-brainage: T1-weighted MRI to brain age, as a BIDS App."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("bids-brainage")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0+unknown"
