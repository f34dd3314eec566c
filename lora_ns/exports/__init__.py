"""What a run is exported as: artefacts that other programs read."""
