"""What runs on a device: times, ceilings and tensors on request, and nothing left behind."""
