"""The flow: intake, dispatch and delivery around the journal; knows the domain only."""
