"""What any experiment needs, whatever it studies. Nothing in here imports torch."""
