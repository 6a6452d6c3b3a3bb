"""Fused scans: one kernel over all time steps, generated from a neuron's definition.

    neuron function -- step: traced once, elementwise --> aten graph, forward and backward
                    -- sweep: what to keep between them --> two loops over [T, M]
                    -- loops: what they read, compute, write --> printed by a target, and run
                    -- operators: torch's operators

Targets are the CPU (`cpu`: C, compiled by the C compiler) and CUDA's devices (`triton`). Nothing
here knows a particular neuron. What cannot be traced to elementwise arithmetic, or cannot be
computed in eager's rounding, has no kernel; the loop in `snncompile.runtime.scan` runs it.
"""
