"""Drift layer by layer: capture, join, accumulated and isolated comparison, evidence."""
