"""Every method against the modality gap, on emoji of three vendors and their captions."""
