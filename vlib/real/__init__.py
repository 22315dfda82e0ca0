"""Bridges to real hypervisors, for whoever has one: nothing else in the course needs them, and they know no model."""
