"""The durable state machine in the middle of the flow."""
