"""What others run: their pins, and the plain programs that most people write themselves."""
