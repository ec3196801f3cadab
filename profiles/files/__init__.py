"""Files and folders on disk: written whole, and of our own alone removed."""
