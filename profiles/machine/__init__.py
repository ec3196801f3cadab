"""What the machine can do: measured ceilings, published machines, prediction."""
