"""The demonstration: both ends of the flow on one machine, with texts that ship with the package."""
