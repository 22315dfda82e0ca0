"""Labs in, marks out."""
