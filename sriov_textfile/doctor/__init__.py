"""Shows every PF and VF, and explains why a metric is missing.

examine.py reads the machine into the facts of report.py, findings.py draws conclusions from these
facts alone, and show.py prints both.
"""
