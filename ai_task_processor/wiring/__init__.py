"""The parts of the composition root, one for each room that it wires."""
