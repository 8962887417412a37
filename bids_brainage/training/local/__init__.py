"""The recipe of the ``local`` architecture: settings, people and their maps, the loss, and what a bundle says."""
