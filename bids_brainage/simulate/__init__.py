"""People whose brain age is known: anatomy, planted aging, scanner, and datasets of them.

Stands apart from ``image`` and ``models``, which it is there to judge.
"""
