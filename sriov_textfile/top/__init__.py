"""top: shows which pods and VFs use the links, as it happens.

A source, the machine or a recording, has samples of counters; a meter turns them into rates; batch
and the live view show the rates.
"""
