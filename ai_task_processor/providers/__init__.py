"""Engines, one module each, and the wrappers around any of them."""
