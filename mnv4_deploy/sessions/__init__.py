"""Images through any model file or network, here or on a device."""
