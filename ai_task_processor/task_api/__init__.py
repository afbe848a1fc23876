"""Everything that speaks to the user's Task API."""
