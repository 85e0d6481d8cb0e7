"""A pretend host: the files and sockets that the program reads, for the demo and the tests.

`make lab` compares what is pretended here with a real kernel.
"""
