"""Reports of finished runs: tables for the terminal, in Markdown and as JSON, and one HTML page that opens offline.

Nothing is imported here: every command writes text for a terminal, and few make a report.
"""
