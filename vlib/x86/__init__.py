"""A small 32-bit x86 on real encodings: assembler, decoder, memory management, processor, and a board around it."""
