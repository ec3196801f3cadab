"""What a profile is written as: plots, a report page, tables and overlays for other tools."""
