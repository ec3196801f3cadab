"""Drift: two classifiers on the same images, at the output and layer by layer."""
