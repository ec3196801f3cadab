"""What is written for people: pages, tables, plots and overlays."""
