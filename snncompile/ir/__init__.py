"""The intermediate representation: one time step of a spiking network with explicit state."""
