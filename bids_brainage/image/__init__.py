"""One stage a file: pure functions from images to images."""
