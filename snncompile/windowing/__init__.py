"""Rewrites a step so that parts of it run window by window over feature maps."""
