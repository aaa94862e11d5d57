"""Capture of web pages as layouts: sources, a browser that opens them, and the file of layouts."""
