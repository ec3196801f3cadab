"""One class an image: labels, data sets, answers and their statistics."""
