"""How fast features collapse with each loss, on images and on text."""
