"""Explains the machine to a person: every PF and VF, and why a metric is missing.

examine.py reads the machine into the facts of report.py, findings.py draws conclusions from those
facts alone, and show.py prints both.
"""
