"""The same sweeps on a GPU, as Triton; `target` is what other modules need.

    loops, arithmetic -- source: printed, expressions spelled by expressions
                      -- modules: a file in the cache, imported --> target: launched

Triton is imported by the modules that are printed here and by `libdevice`, nowhere else. Under
TRITON_INTERPRET=1 kernels run on the CPU, where `libdevice` stands in for CUDA's.
"""
