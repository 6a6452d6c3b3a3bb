"""What the pass `recompute` is made of: what a training step keeps, and what it finds again.

`levels` says in how many bits a value can be kept, `units` what the parts of a step cost and
`autograd` what would be kept of them otherwise; `segments` cuts a step, `choice` picks the cuts for
a budget, `report` says why.
"""
