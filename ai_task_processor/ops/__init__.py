"""Observers of events: logs, metrics, health, and the routes that show them."""
