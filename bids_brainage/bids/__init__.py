"""BIDS in and out: datasets become scans, results become derivatives. Nothing else knows pybids or a file name."""
