"""Two machines on one computer, with a slow or broken link between them."""
