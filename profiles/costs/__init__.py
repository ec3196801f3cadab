"""What the operators of a graph must compute and move."""
