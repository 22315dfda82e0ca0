"""A small 32-bit x86 on real encodings: assembler, decoder, memory management, processor, and a board around it."""

from vlib.x86.assembler import Program, assemble
from vlib.x86.board import Board
from vlib.x86.cpu import CPU
from vlib.x86.decoder import decode
from vlib.x86.memory import Memory
from vlib.x86.traps import Trap

__all__ = ["CPU", "Board", "Memory", "Program", "Trap", "assemble", "decode"]
