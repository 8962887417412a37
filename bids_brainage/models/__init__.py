"""Models of brain age: the contract, where bundles are found, and one file an architecture."""
