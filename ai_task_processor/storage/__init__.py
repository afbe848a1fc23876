"""The database: engine and schema; no knowledge of who uses it."""
