"""Frozen records between the stages, which also travel to devices and into JSON."""
