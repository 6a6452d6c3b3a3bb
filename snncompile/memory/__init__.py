"""What the pass `recompute` is made of: what a training step keeps, and what it finds again.

`levels` says in how many bits a value can be kept, `packing` packs it, `cost` counts bytes and
operations, `segments` cuts a step, `choice` picks the cuts for a budget, `report` says why.
"""
