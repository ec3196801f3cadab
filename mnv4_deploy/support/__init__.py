"""Which files of which models work, as recorded, and the catalogue that tells it."""
