"""Spike accumulation forwarding: what the pass `saf` consists of."""
