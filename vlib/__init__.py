"""The models of *Virtualization You Can Run*: one module, one mechanism."""
