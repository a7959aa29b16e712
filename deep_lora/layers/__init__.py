"""The adapted layers: one for each kind of base layer, and what they share."""
