"""How well a local model finds what was planted into simulated people whom no training saw."""
