"""Recipes that end in a bundle."""
