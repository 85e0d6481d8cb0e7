"""Fuzzes the whole program: one process for each case, on a simulated machine with damage.

A case follows from its seed. `machine.py` builds its machine, `damage.py` damages it, and
`checks.py` runs the program on it and checks what it must never do.
"""
