"""Multi-precision neurons: what they learn, and how they take the place of others."""
