"""Reference people: kernel densities of regional volumes, matched synthetic controls, harmonisation and its proof.

Pure functions on tables and arrays; ``brainage genmind`` and the group level call them.
"""
