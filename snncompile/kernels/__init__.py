"""Fused scans on the CPU: one kernel over all time steps, generated from a neuron's definition.

    neuron function -- step: traced once, elementwise --> aten graph, forward and backward
                    -- sweep: what to keep between them --> two loops over [T, M]
                    -- c: printed --> build: compiled, cached --> operators: torch's operators

Nothing here knows a particular neuron. What cannot be traced to elementwise arithmetic, or cannot
be computed in eager's rounding, has no kernel; the loop in `snncompile.runtime.scan` runs it.
"""
