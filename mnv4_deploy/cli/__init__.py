"""The command line: parsing, exit codes, and no work."""
