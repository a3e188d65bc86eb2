"""The GPU path: Triton kernels. Importing it needs triton."""
