"""Sets of images, and how an image becomes a network's input."""
