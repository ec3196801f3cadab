"""What XNNPACK takes, why it refuses the rest, and what its kernels are called."""
