"""Studies of one question each: recovery, ratings, ranks, sketches, neural collapse, the modality gap."""
