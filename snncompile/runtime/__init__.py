"""Everything that executes a program: schedules, the neuron scans, generated code."""
