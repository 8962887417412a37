"""What every other part stands on: types that travel between stages, errors, atomic files, hashes, bundles."""
