"""What the project measures: settings in, results out, and the tables and figures that are made of them."""
