"""A compiler for spiking neural networks: capture, rewrite, verify, export."""
