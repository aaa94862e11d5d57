"""Measurements, each one command; README.md beside this file says what holds for all of them."""
