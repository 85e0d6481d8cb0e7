"""Metrics over HTTP: GET /metrics and nothing else, whatever other clients do.

asyncio accepts connections, h11 parses requests, and Werkzeug parses Accept-Encoding. This package
has the answers, and the limits that keep one client from shutting out another.
"""
