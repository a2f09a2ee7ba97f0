"""The benchmark of the CUDA kernels: a file for each operation, and what they share is in timing.py."""
