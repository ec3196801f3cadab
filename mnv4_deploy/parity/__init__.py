"""The same tensors through the same file here and on a device, compared bit for bit."""
