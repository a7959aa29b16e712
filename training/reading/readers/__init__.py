"""What each format is read by, and the rows of text fields that csv files and sheets share."""
